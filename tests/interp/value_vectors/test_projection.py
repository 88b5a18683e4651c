"""Value vectors as tokens, against the model's own head and projection."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp.models.feed_forward import final_gain, from_flat, stack_of, stacks_of, value_vectors
from interp.models.loading import load_hf_model
from interp.steering.edits import steer
from interp.value_vectors.action_tokens import ActionTokens
from interp.value_vectors.projection import find, project
from tests import tiny_vla_models as vla
from tests.tiny_models import tiny_model

ACTIONS = ActionTokens(vocab_size=vla.VOCAB, edges=vla.ACTIONS)
TOKENIZER = vla.tokenizer()
READ: dict[str, Any] = {"tokenizer": TOKENIZER, "actions": ACTIONS}


def build(name: str) -> Any:
    return getattr(vla, name)() if hasattr(vla, name) else tiny_model(name)


def parts(model: Any, name: str) -> tuple[nn.Module, Any]:
    """Head and decoder layers, written down by hand for every layout; PI0 unembeds with its embedding."""
    if name == "pi0":
        head = nn.Linear(vla.WIDTH, vla.VOCAB, bias=False)
        head.weight = model.model.vlm.language_model.embed_tokens.weight
        return head, model.model.vlm.language_model.layers
    if name == "openvla":
        return model.language_model.lm_head, model.language_model.model.layers
    layers = {
        "gpt2": lambda: model.transformer.h,
        "gpt_neox": lambda: model.gpt_neox.layers,
        "paligemma": lambda: model.model.language_model.layers,
        "smolvlm": lambda: model.model.text_model.layers,
    }.get(name, lambda: model.model.layers)()
    return model.lm_head, layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "paligemma", "pi0", "smolvlm", "openvla"])
@torch.no_grad()
def test_projection_is_the_head_of_one_neuron_at_a_time(name: str, dtype: torch.dtype) -> None:
    model = build(name).to(dtype)
    head, layers = parts(model, name)
    down = getattr(layers[1].mlp, {"gpt2": "c_proj", "gpt_neox": "dense_4h_to_h"}.get(name, "down_proj"))
    vectors = value_vectors(stack_of(model), 1)
    if down.bias is not None:
        down.bias.zero_()
    assert torch.equal(vectors, down(torch.eye(len(vectors), dtype=dtype)).float())

    top = project(model, layers=[1], top_k=vla.VOCAB).layers[1]
    found = torch.empty_like(top.logits).scatter_(1, top.ids, top.logits)  # an id beyond the vocabulary would not fit
    assert (found - head.float()(vectors)[:, : vla.VOCAB]).abs().max() < 1e-5
    assert (top.logits.diff(dim=1) <= 0).all()


def test_a_wrapped_projection_is_read_as_what_it_computes() -> None:
    """As of LoRA: the merged weight."""

    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base_layer, self.in_features, self.out_features = base, base.in_features, base.out_features
            self.delta = torch.randn(base.out_features, base.in_features)

        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + x @ self.delta.T

    model = tiny_model("llama")
    plain = value_vectors(stack_of(model), 0)
    model.model.layers[0].mlp.down_proj = adapted = Adapted(model.model.layers[0].mlp.down_proj)
    assert (value_vectors(stack_of(model), 0) - plain - adapted.delta.T).abs().max() < 1e-5


def test_lerobots_layout_is_two_stacks() -> None:
    """By its paths (lerobot itself cannot be installed here): the expert has a head, but reads no tokens."""
    root, pi0, llama = nn.Module(), vla.pi0(), tiny_model("llama")
    root.model = nn.Module()
    root.model.paligemma_with_expert = both = nn.Module()
    both.paligemma, both.gemma_expert = vla.paligemma(), llama
    llama.model.embed_tokens = None
    found = {stack.path.removeprefix("model.paligemma_with_expert."): stack for stack in stacks_of(root)}
    assert list(found) == ["paligemma.model.language_model.layers", "gemma_expert.model.layers"]
    assert [stack.unembedding is not None for stack in found.values()] == [True, False]
    assert [stack.read_by_head for stack in found.values()] == [False, True]
    assert [stack.read_by_head for stack in stacks_of(pi0)] == [False, True]


def test_models_of_the_class_their_configuration_names(tmp_path: Path) -> None:
    for name in ("pi0", "smolvlm"):
        model = build(name)
        model.save_pretrained(tmp_path / name)
        loaded = load_hf_model(tmp_path / name)
        assert type(loaded) is type(model)
        assert find(loaded, [5]).members == find(model, [5]).members
        assert find(loaded, [5]).fingerprint == find(model, [5]).fingerprint
    config = tmp_path / "pi0" / "config.json"
    config.write_text(config.read_text().replace("PI0ForConditionalGeneration", "PI9ForConditionalGeneration"))
    with pytest.raises(ValueError, match="names the class PI9ForConditionalGeneration, which transformers"):
        load_hf_model(tmp_path / "pi0")


@pytest.mark.parametrize("name", ["llama", "paligemma", "gpt2", "embedded"])
def test_the_final_norms_gain(name: str, embedded: Any) -> None:
    model = embedded if name == "embedded" else build(name)
    stack = stack_of(model)
    norm = stack.final_norm._modules.get("_original_component", stack.final_norm)
    gain = final_gain(stack.final_norm)
    assert torch.equal(gain, norm.weight + 1 if name == "paligemma" else norm.weight)

    vectors = value_vectors(stack, 0)
    if isinstance(norm, nn.LayerNorm):
        vectors = vectors - vectors.mean(1, keepdim=True)
    expected = (vectors * gain) @ stack.unembedding.weight.T
    assert (
        project(model, layers=[0], norm="gain", top_k=3).layers[0].logits - expected.topk(3).values
    ).abs().max() < 1e-4


def test_actions_are_decoded_by_openvlas_rule() -> None:
    actions = ActionTokens(vocab_size=32000)
    assert (actions.ids.start, actions.ids.stop) == (31744, 32000)
    assert np.allclose(actions.decode([31999, 31745, 31744]), [-0.99608, 0.99608, 0.99608], atol=1e-5)
    assert (np.diff(actions.decode(actions.ids)) <= 0).all()
    values = np.linspace(-1.2, 1.2, 101)
    assert np.abs(actions.decode(actions.encode(values)) - np.clip(values, -1, 1)).max() <= 1 / 255 + 1e-12
    with pytest.raises(ValueError, match=r"action ids are 31744 to 31999, and not all of \[32000\] are"):
        actions.decode([32000])
    with pytest.raises(ValueError, match=r"edges=64.*no more than tokens.*OpenVLA has 256"):
        ActionTokens(vocab_size=32, edges=64).check()


def test_action_share_stands_beside_chance_and_padding_is_no_token() -> None:
    model = vla.openvla()
    with torch.no_grad():
        model.language_model.lm_head.weight[vla.VOCAB :] *= 100  # would win every place
    found = project(model, top_k=4, **READ)
    assert found.chance == vla.ACTIONS / vla.VOCAB
    for layer, top in found.layers.items():
        assert top.ids.max() < vla.VOCAB
        share = found.action_share[layer]
        assert share.value == pytest.approx(float((top.ids >= vla.VOCAB - vla.ACTIONS).float().mean()))
        assert share.n == 48
    assert {token.text for i in range(48) for token in found.tokens((0, i))} & {"<action +0.933>", "<action -0.933>"}
    without = project(model, top_k=1)
    assert without.vocabulary.size == vla.VOCAB, "the model knows"
    with pytest.raises(ValueError, match="Project again with actions=ActionTokens"):
        without.action_share  # noqa: B018
    with pytest.raises(ValueError, match=r"neuron \(3, 0\) was not projected; layers \[0, 1, 2\] were"):
        found.tokens((3, 0))


def planted(*, permute: bool = False) -> Any:
    """Neuron 7 of layer 1 writes "up" and the largest action, or the same numbers in other dimensions."""
    model = vla.openvla()
    layers = model.language_model.model.layers
    W_U = model.language_model.lm_head.weight
    with torch.no_grad():
        W_U.div_(W_U.norm(dim=1, keepdim=True))  # no token is larger than others,
        for layer in layers:
            layer.mlp.down_proj.weight.mul_(0.1)  # and for random neurons none stands out
        vector = 3 * (W_U[vla.WORDS.index("up")] + W_U[ACTIONS.ids.start])
        order = torch.randperm(len(vector), generator=torch.Generator().manual_seed(0))
        layers[1].mlp.down_proj.weight[:, 7] = vector[order] if permute else vector
    return model


def mean_action(model: Any) -> float:
    return float(ACTIONS.decode(model.act(**vla.openvla_observation())).mean())


@pytest.mark.parametrize("method", ["neighbours", "logit"])
def test_a_planted_neuron_is_found_and_moves_the_action(method: Any) -> None:
    found = find(planted(), ["up"], method=method, top=5, **READ)
    assert found.neurons[0] == (1, 7)
    assert {token.text for token in found.members[0].tokens[:2]} == {"up", "<action +0.933>"}
    assert (1, 7) not in find(planted(permute=True), ["up"], method=method, top=5, **READ).neurons

    change = {}
    for permute in (False, True):
        model = planted(permute=permute)
        before = mean_action(model)
        with steer(model, neurons=[(1, 7)], value=20.0):
            change[permute] = mean_action(model) - before
    assert change[False] > 0.5
    assert change[True] < 0.1


def test_prompt_and_decoding_steer_different_dimensions() -> None:
    """The first action is predicted from the prompt, the others from the actions before them."""
    model, top = planted(), ACTIONS.ids.start
    plain = model.act(**vla.openvla_observation())[0].tolist()
    ids = {}
    for scope in ("all", "prefill", "last", "decode"):
        with steer(model, neurons=[(1, 7)], value=20.0, scope=scope):
            ids[scope] = model.act(**vla.openvla_observation())[0].tolist()
    assert plain[0] != top
    assert ids["all"] == ids["last"] == [top] * 7
    assert ids["decode"] == [plain[0], *[top] * 6]
    assert ids["prefill"][0] == top
    assert top not in ids["prefill"][1:]


def test_scores_are_those_of_the_formulas() -> None:
    """Both methods from the full logits, one neuron at a time."""
    model = vla.openvla()
    W_U, E = model.language_model.lm_head.weight[: vla.VOCAB], model.language_model.model.embed_tokens.weight
    words, antonyms = ["up", "higher"], ["down"]
    ids, opposite = [4, 5], [8]
    for method in ("neighbours", "logit"):
        cluster = find(model, words, antonyms=antonyms, method=method, top=20, layers="late", **READ)
        assert {member.layer for member in cluster.members} == {2}, "the second half of three layers"
        for member in cluster.members:
            logits = W_U @ value_vectors(stack_of(model), member.layer)[member.index]
            if method == "logit":
                z = (logits - logits.mean()) / logits.std(correction=0)
                expected = z[ids].mean() - z[opposite].mean()
            else:
                top = logits.topk(5)
                mean = top.values.softmax(0) @ E[top.indices]
                cosine = torch.cosine_similarity
                expected = cosine(mean, E[ids].mean(0), 0) - cosine(mean, E[opposite].mean(0), 0)
            assert member.score == pytest.approx(float(expected.detach()), abs=1e-4)
        assert list(cluster.members) == sorted(cluster.members, key=lambda m: (-m.score, m.layer, m.index))


def test_equal_scores_are_in_the_order_of_layer_and_index() -> None:
    model = planted()
    layers = model.language_model.model.layers
    with torch.no_grad():
        for layer, index in ((2, 1), (0, 9), (0, 3)):
            layers[layer].mlp.down_proj.weight[:, index] = layers[1].mlp.down_proj.weight[:, 7]
    assert find(model, ["up"], top=4, **READ).neurons == [(0, 3), (0, 9), (1, 7), (2, 1)]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vla.openvla()
    whole = find(model, ["up"], **READ)
    monkeypatch.setattr("interp.value_vectors.projection._BLOCK_LOGITS", 5 * vla.VOCAB)
    monkeypatch.setattr("interp.value_vectors.projection._BLOCK_ROWS", 7)
    assert find(model, ["up"], **READ).neurons == whole.neurons
    in_blocks = find(model, ["up"], method="logit", **READ).neurons
    monkeypatch.undo()
    assert find(model, ["up"], method="logit", **READ).neurons == in_blocks


BAD = [
    (
        vla.pi0,
        {"stack": "model.dit.layers"},
        r"'model\.dit\.layers' have no vocabulary head.*An action expert has none",
    ),
    (
        vla.pi0,
        {"stack": "model.layers"},
        r"stack='model\.layers'; this model has 'model\.vlm\..*model\.dit\.layers' \(no",
    ),
    (lambda: tiny_model("llama").model, {}, r"'layers' have no vocabulary head.*load the whole model"),
    (
        lambda: nn.Sequential(nn.Linear(2, 2)),
        {},
        r"Sequential has no feed-forward layers with a single last projection",
    ),
    (vla.openvla, {"layers": [3]}, r"layers=\[3\]: choose all, early, late, or numbers from 0 to 2"),
    (vla.openvla, {"norm": "folded"}, r"norm='folded' is not known; choose raw \(the paper's\) or gain"),
    (vla.openvla, {"vocab_size": 71}, r"a vocabulary of 71 tokens does not fit an unembedding of 70 rows"),
]


@pytest.mark.parametrize(("model", "options", "message"), BAD)
def test_what_cannot_be_projected(model: Any, options: dict[str, Any], message: str) -> None:
    for call in (project, lambda model, **options: find(model, [5], **options)):
        with pytest.raises(ValueError, match=message):
            call(model(), **options)


def test_other_bad_input(embedded: Any) -> None:
    model = vla.openvla()
    for words, options, message in (
        (["speedily"], READ, r"'speedily' is not one token of this vocabulary, which splits it into '<unk>'"),
        (["fast"], {}, r"the word 'fast' needs a tokenizer: pass tokenizer=…, or token ids"),
        ([64], READ, r"token 64 is not in the vocabulary of 64 tokens"),
        ("fast", READ, r"words='fast': give a list"),
        ([], READ, r"words=\[\]: give a list of one or more words"),
        ([4], {"method": "kmeans"}, r"method='kmeans' is not known; choose neighbours or logit"),
        ([4], {"top": 145}, r"top=145 is not from 1 to 144"),
    ):
        with pytest.raises(ValueError, match=message):
            find(model, words, **options)
    with pytest.raises(
        ValueError, match=r"'swiftly' is not one token.*splits it into 'sw' \+ 'if' \+ 'tly'|splits it into '"
    ):
        find(embedded, ["swiftly"])
    with pytest.raises(ValueError, match=r"top_k=71 is not from 1 to 64"):
        project(model, top_k=71, actions=ACTIONS)


def test_flat_ids_need_a_width() -> None:
    assert from_flat([0, 11008, 237682], width=11008) == [(0, 0), (1, 0), (21, 6514)]
    with pytest.raises(ValueError, match=r"\[-1\] with width=11008"):
        from_flat([-1], width=11008)
