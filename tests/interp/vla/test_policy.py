"""The policy and its words: what its tokens stand for, how a sequence is built, what it refuses. No simulator."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.models.feed_forward import stack_of
from interp.vla.policy import words
from interp.vla.policy.policy import PolicyConfig, VLAPolicy, load_policy
from interp.vla.policy.tokenizer import ACTIONS, BOS, EOS, VOCAB, encode

HAND = torch.tensor([[0.0, 0.6, 0.2], [0.1, 0.7, 0.1]])
GOAL = torch.tensor([[0.1, 0.8, 0.1], [-0.1, 0.85, 0.3]])
PROMPT = torch.tensor(encode(words.action_prompt("move up quickly")))


@pytest.fixture(scope="module")
def policy() -> VLAPolicy:
    torch.manual_seed(0)
    return VLAPolicy(PolicyConfig()).eval()


def test_there_are_95_words_and_the_last_256_ids_are_actions(policy: VLAPolicy) -> None:
    assert (len(words.TOKENS), VOCAB) == (95, 351)
    assert ACTIONS.ids == range(95, 351)
    assert policy.tokenizer.encode("move up quickly") == encode("move up quickly")[1:]
    assert policy.tokenizer.convert_ids_to_tokens(95) == "<action_0>"


def test_every_sentence_is_made_of_words() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        task, speed = rng.choice(words.TASKS), rng.choice(list(words.SPEEDS))
        asked = encode(words.question(task, speed, rng))
        assert asked[0] == BOS
        assert asked[-1] == EOS
        answer = words.TOKENS[asked[-2]]
        assert answer in words.SPEEDS[speed] or answer in words.DIRECTIONS[task]
        encode(words.synonym_sentence(rng))
        encode(words.action_prompt(words.instruction(task, speed, rng=rng)))
    assert words.instruction("up", "fast") == "move up quickly"
    assert words.instruction("reach") == "reach the goal"


def test_what_has_no_words_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no words for 'sideways' at speed 'medium'; tasks: up, down"):
        words.instruction("sideways")
    with pytest.raises(ValueError, match=r"no word for 'jump', 'now'; its words: in :"):
        encode("jump up now")


def test_soft_tokens_stand_behind_the_first_token(policy: VLAPolicy) -> None:
    embedded = policy.embed(PROMPT.expand(2, -1), HAND, GOAL)
    table = policy.language_model.get_input_embeddings().weight
    assert policy.soft_tokens == range(1, 3)
    assert torch.equal(embedded[:, 0], table[BOS].expand(2, -1))
    assert torch.equal(embedded[:, 3:], table[PROMPT[1:]].expand(2, -1, -1))
    moved = policy.embed(PROMPT.expand(2, -1), HAND, GOAL + 0.1)
    assert (embedded != moved).any(-1).nonzero()[:, 1].unique().tolist() == list(policy.soft_tokens)


def test_actions_with_and_without_a_cache_are_the_same_and_are_actions(policy: VLAPolicy) -> None:
    cached, whole = (policy.act(PROMPT, HAND, GOAL, cached=cached) for cached in (True, False))
    assert torch.equal(cached.tokens, whole.tokens)
    assert ((cached.tokens >= 95) & (cached.tokens < 351)).all()
    assert np.array_equal(cached.values, ACTIONS.decode(cached.tokens.numpy()))


def test_a_word_is_never_taken_for_an_action() -> None:
    """OpenVLA's rule would decode a word as the largest action."""
    torch.manual_seed(0)
    policy = VLAPolicy(PolicyConfig()).eval()
    with torch.no_grad():  # the same hidden state scores the words highest, whatever it is
        norm = policy.language_model.model.norm
        head = torch.nn.Linear(96, VOCAB)
        head.bias.copy_(torch.cat([torch.full((95,), 100.0), torch.linspace(0, 1, 256)]))
        policy.language_model.lm_head = head
        norm.weight.zero_()
    done = policy.act(PROMPT, HAND, GOAL)
    assert done.word.all()
    assert done.tokens.eq(350).all()
    assert np.allclose(done.values, -1 + 1 / 255)


def test_steering_finds_the_llama_inside(policy: VLAPolicy) -> None:
    stack = stack_of(policy)
    assert stack.path == "language_model.model.layers"
    assert stack.widths == (256,) * 4


def test_a_camera_takes_the_place_of_the_goal() -> None:
    torch.manual_seed(0)
    policy = VLAPolicy(PolicyConfig(camera=64)).eval()
    image = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    red = image.clone()
    red[:, 20:24, 40:44, 0] = 255
    ids = PROMPT.expand(2, -1)
    assert policy.soft_tokens == range(1, 7)
    assert torch.equal(policy.embed(ids, HAND, GOAL, image), policy.embed(ids, HAND, None, image))
    assert not torch.equal(policy.embed(ids, HAND, None, red), policy.embed(ids, HAND, None, image))
    with pytest.raises(ValueError, match="this policy has a camera, but none was given"):
        policy.embed(ids, HAND, GOAL)


def test_missing_and_needless_inputs_are_refused(policy: VLAPolicy) -> None:
    with pytest.raises(ValueError, match="this policy has no camera, but one was given"):
        policy.embed(PROMPT.expand(2, -1), HAND, GOAL, torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="needs the goal's position"):
        policy.embed(PROMPT.expand(2, -1), HAND, None)


def test_a_policy_comes_back_as_it_was_saved(policy: VLAPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path, notes={"recipe": {"seed": 3}})
    back = load_policy(tmp_path)
    assert json.loads((tmp_path / "policy.json").read_text())["recipe"] == {"seed": 3}
    assert torch.equal(back.act(PROMPT, HAND, GOAL).tokens, policy.act(PROMPT, HAND, GOAL).tokens)
    assert back.state_dict().keys() == policy.state_dict().keys()
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in policy.state_dict().items())


def test_what_is_no_policy_is_refused(policy: VLAPolicy, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="give a folder that `interp vla train` wrote, or one of: camera, no_text, state"
    ):
        load_policy(tmp_path / "nothing")
    policy.save(tmp_path, notes={})
    sizes = json.loads((tmp_path / "policy.json").read_text())["sizes"]
    for change, said in (
        ({"hidden": 64}, "the weights .* are not those of its sizes"),
        ({"hidden": None}, "sizes.hidden is 'None'; it must be a whole number"),
        ({"layers": None}, "sizes.layers is 'None'"),
        ({"layers": 10**9}, r"it has 1000000000 layers, but \d+ weights"),
        ({"heads": 0}, "heads is 0; it must be 1 or more"),
        ({"heads": 5}, "hidden 96 cannot be shared among 5 heads"),
        ({"camera": "64"}, "sizes.camera is '64'"),
    ):
        (tmp_path / "policy.json").write_text(json.dumps({"sizes": sizes | change}))
        with pytest.raises(ValueError, match=f"does not hold a policy of this version: {said}.*Train it again"):
            load_policy(tmp_path)
    (tmp_path / "policy.json").write_text('{"notes": 1}')
    with pytest.raises(ValueError, match=r"does not hold a policy of this version: it lacks 'sizes'\. Train it again"):
        load_policy(tmp_path)
