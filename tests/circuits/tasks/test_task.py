"""Tasks: what they refuse, what their metrics measure by hand, and the built-in ones."""

import json
import math

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import circuits
from circuits import Task, tasks
from circuits.explorer.positions import unfold
from circuits.tasks import built_in
from circuits.tasks.metrics import measure_between
from saes.activations import TopK
from saes.sae import SAE
from tests.circuits.pairs import model_of, random_task


def small(**changes) -> Task:
    return Task(**{"clean": [[1, 2]], "corrupt": [[1, 3]], "correct": [0], "wrong": [1]} | changes)


def test_metrics_by_hand() -> None:
    clean = torch.tensor([[math.log(8.0), math.log(1.0), math.log(1.0)]], dtype=torch.float64)
    corrupt = torch.zeros(1, 3, dtype=torch.float64)
    half = torch.tensor([[math.log(2.0), 0.0, 0.0]], dtype=torch.float64)

    def scaled(metric: object, logits: torch.Tensor = half) -> float:
        return float(measure_between(small(metric=metric), clean, corrupt)(logits))

    assert scaled("logit_difference") == pytest.approx(math.log(2) / math.log(8))
    assert scaled("probability") == pytest.approx((0.5 - 1 / 3) / (0.8 - 1 / 3))
    assert scaled("probability_difference") == pytest.approx((0.5 - 0.25) / (0.8 - 0.1))
    divergence = 0.8 * math.log(0.8 / 0.5) + 2 * 0.1 * math.log(0.1 / 0.25)
    whole = 0.8 * math.log(0.8 * 3) + 2 * 0.1 * math.log(0.1 * 3)
    assert scaled("kl") == pytest.approx(1 - divergence / whole)
    assert scaled(lambda logits, task: logits[:, 0] ** 2) == pytest.approx((math.log(2) / math.log(8)) ** 2)
    for metric in ("logit_difference", "kl"):
        assert scaled(metric, clean) == pytest.approx(1)
        assert scaled(metric, corrupt) == pytest.approx(0)


def test_many_runs_and_answers_of_different_number() -> None:
    task = Task(clean=[[1], [2]], corrupt=[[3], [3]], correct=[[0, 1], [2]], wrong=[[2], [0, 1]])
    assert task.correct.tolist() == [[0, 1], [2, -1]]
    logits = torch.randn(5, 2, 3, dtype=torch.float64)
    measure = measure_between(task, logits[0], logits[1])
    found = measure(logits)
    assert found.shape == (5, 2)
    for run in range(5):
        first, second = logits[run]
        raw = torch.stack([first[:2].mean() - first[2], second[2] - second[:2].mean()])
        torch.testing.assert_close(found[run], (raw - measure.corrupt) / (measure.clean - measure.corrupt))


def test_a_metric_that_averages_is_refused() -> None:
    with pytest.raises(ValueError, match="one number a prompt, not their mean"):
        measure_between(small(metric=lambda logits, task: logits.mean()), torch.rand(1, 3), torch.rand(1, 3))


def test_custom_metrics_run_through_every_method() -> None:
    model, task = model_of("gpt2"), random_task()
    own = task.replace(metric=lambda logits, t: logits[torch.arange(len(t)), t.correct[:, 0]])
    for method in ("patching", "atp", "relp", "ig"):
        assert circuits.attribute(model, own, nodes="attn_out", method=method).values.isfinite().all()


def test_a_metric_that_is_flat_where_gradients_are_taken_is_refused() -> None:
    """A divergence from the clean run has no slope there: what gradients give is rounding, 1e-8 where effects are 1."""
    model = model_of("gpt2")
    flat = random_task(metric="kl", direction="noise")
    own = flat.replace(metric=lambda logits, t: -(logits - model(t.clean).logits[:, -1].detach()).square().sum(-1))
    for task in (flat, own):
        for nodes, method in (
            ("mlp_out", "atp"), ("z", "atp*"), ("mlp_out", "relp"), ("edges", "eap"), ("edges", "relp"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"flat at the clean run.*direction='denoise'.*'ig', 'eap-ig'"):
                circuits.attribute(model, task, nodes=nodes, method=method)
        for nodes, method in (("mlp_out", "ig"), ("mlp_out", "patching"), ("edges", "eap-ig")):
            found = circuits.attribute(model, task, nodes=nodes, method=method)
            assert float(found.values.abs().max()) > 1e-2
        there = circuits.attribute(model, task.replace(direction="denoise"), nodes="mlp_out", method="atp")
        assert float(there.values.abs().max()) > 1e-2
    sae = SAE(32, 64, TopK(4), site="blocks.1.hook_resid_post").initialise(seed=0, mean=torch.zeros(32))
    with pytest.raises(ValueError, match="flat at the clean run"):
        circuits.attribute(model, flat, nodes="latents", method="atp", saes=[sae])
    explored = circuits.Circuit.from_edges(circuits.attribute(model, flat, nodes="edges", method="eap-ig"))
    with pytest.raises(ValueError, match="flat at the clean run"):
        unfold(model, flat, explored)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": [[1, 2, 3]]}, r"1 prompts of 3 tokens.*same number of tokens"),
        ({"clean": [[1, 2], [1]]}, "clean prompts have 1 to 2 tokens"),
        ({"clean": [[1, 3]]}, "prompt 0 are the same tokens"),
        ({"clean": [[0.5, 1.0]]}, "must be token ids"),
        ({"correct": [[[1, 2]]]}, "several tokens cannot be read off one position"),
        ({"correct": [1]}, "token 1 is both a correct and a wrong answer"),
        ({"correct": [[]]}, "no answer for prompt 0"),
        ({"metric": "loss"}, "'loss' is not one of logit_difference"),
        ({"direction": "back"}, "'back' is not one of denoise, noise"),
        ({"labels": ["a"]}, "1 labels for 2 positions"),
    ],
)
def test_mistakes_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_text_is_checked_against_the_tokenizer(embedded) -> None:
    tokenizer = embedded.tokenizer
    pair = {
        "clean": ["So Mary gave it to"],
        "corrupt": ["So John gave it to"],
        "correct": [" John"],
        "wrong": [" Mary"],
    }
    task = Task.from_text(tokenizer, **pair)
    assert task.labels is not None
    assert task.labels[1:] == ("So", " Mary", " gave", " it", " to")
    with pytest.raises(ValueError, match=r"' seventeen' is 5 tokens, \[' se', 'v'"):
        Task.from_text(tokenizer, **pair | {"correct": [" seventeen"]})
    with pytest.raises(ValueError, match=r"begin with a space"):
        Task.from_text(tokenizer, **pair | {"correct": ["seventeen"]})
    with pytest.raises(ValueError, match="corrupt prompt 0 is the first that differs: 'So old John gave it to'"):
        Task.from_text(tokenizer, **pair | {"corrupt": ["So old John gave it to"]})


def test_jsonl(embedded, tmp_path) -> None:
    path = tmp_path / "names.jsonl"
    line = {
        "clean": "So Mary gave it to",
        "corrupt": "So John gave it to",
        "correct": [" John", " James"],
        "wrong": " Mary",
    }
    path.write_text(json.dumps(line) + "\n\n" + json.dumps(line | {"clean": "So Mary took it to"}) + "\n")
    task = Task.from_jsonl(path, embedded.tokenizer, direction="noise")
    assert (len(task), task.correct.shape, task.name, task.direction) == (2, (2, 2), "names", "noise")
    path.write_text(json.dumps(line) + "\n" + json.dumps({"clean": "x"}))
    with pytest.raises(ValueError, match=r"line 2 is not a pair of prompts: it lacks 'corrupt'\. A line is"):
        Task.from_jsonl(path, embedded.tokenizer)
    path.write_text("")
    with pytest.raises(ValueError, match="holds no prompts"):
        Task.from_jsonl(path, embedded.tokenizer)


@pytest.fixture(scope="module")
def years() -> PreTrainedTokenizerFast:
    """Numbers in pairs of digits, as GPT-2 splits these years; any other word of the templates."""
    words = "The lasted from the year to".split() + list(built_in._EVENTS)
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *words, *(f"{i:02d}" for i in range(100))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    from tokenizers import Regex

    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d\d| "), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def test_greater_than(years, embedded) -> None:
    task = tasks.greater_than(years, 6, seed=1)
    assert task.metric_name == "probability_difference"
    for clean, corrupt, correct in zip(task.clean, task.corrupt, task.correct, strict=True):
        differs = (clean != corrupt).nonzero().flatten().tolist()
        assert len(differs) == 1
        assert years.decode(corrupt[differs[0]]) == "01"
        year = int(years.decode(clean[differs[0]]))
        assert sorted(int(years.decode(i)) for i in correct if i >= 0) == list(range(year + 1, 99))
    with pytest.raises(ValueError, match="only 0 prompts of greater_than fit this tokenizer"):
        tasks.greater_than(embedded.tokenizer, 4)


@pytest.mark.parametrize("corruption", ["swap", "other_subject", "three_names"])
def test_ioi(embedded, corruption: str) -> None:
    tokenizer = embedded.tokenizer
    task = tasks.ioi(tokenizer, 12, seed=0, corruption=corruption)
    assert len(task) == 12
    for clean, corrupt, correct, wrong in zip(task.clean, task.corrupt, task.correct, task.wrong, strict=True):
        words = tokenizer.decode(clean).split()
        names = [tokenizer.decode(i).strip() for i in (correct[0], wrong[0])]
        assert sum(names[0] in word for word in words) == 1
        assert sum(names[1] in word for word in words) == 2
        assert (clean != corrupt).sum() == (3 if corruption == "three_names" else 1)
        swapped = tokenizer.decode(corrupt).split()
        assert (
            sum(names[0] in word for word in swapped) == {"swap": 2, "other_subject": 1, "three_names": 0}[corruption]
        )
    again = tasks.ioi(tokenizer, 12, seed=0, corruption=corruption)
    assert torch.equal(task.clean, again.clean)
    assert not torch.equal(task.clean[0], tasks.ioi(tokenizer, 12, seed=5, corruption=corruption).clean[0])
    assert len({tuple(row) for row in task.clean.tolist()}) == 12


@pytest.mark.parametrize("form", ["simple", "noun_phrase", "relative_clause"])
def test_agreement(embedded, form: str) -> None:
    tokenizer = embedded.tokenizer
    task = tasks.agreement(tokenizer, 10, seed=3, form=form)
    plural = {verb: number for pair in built_in._VERBS for number, verb in enumerate(pair)}
    for clean, corrupt, correct in zip(task.clean, task.corrupt, task.correct, strict=True):
        assert (clean != corrupt).sum() == 1
        subject = tokenizer.decode(clean[2]).strip()
        assert subject in {pair[plural[tokenizer.decode(correct[0])]] for pair in built_in._NOUNS}


def test_induction(embedded) -> None:
    task = tasks.induction(embedded.tokenizer, 8, seed=0, words=8)
    assert task.length == 1 + 8 + 5
    for clean, corrupt, correct in zip(task.clean.tolist(), task.corrupt.tolist(), task.correct.tolist(), strict=True):
        where = clean.index(clean[-1])
        assert clean[where + 1] == correct[0]
        assert clean[-1] not in corrupt[:-1]
    scores = circuits.attribute(embedded, task, nodes="resid_pre", method="patching")
    assert scores.clean_metric > scores.corrupt_metric + 1  # the embedded model does induction


def test_docstring(embedded) -> None:
    tokenizer = embedded.tokenizer
    task = tasks.docstring(tokenizer, 3, seed=0)
    text = tokenizer.decode(task.clean[0], skip_special_tokens=True)
    arguments = text[text.index("(") + 1 : text.index(")")].split(", ")
    assert arguments[0] == "self"
    assert [line.split()[1] for line in text.splitlines() if "param " in line] == [f"{a}:" for a in arguments[1:3]]
    assert tokenizer.decode(task.correct[0]) == f" {arguments[3]}"
    assert arguments[3] not in tokenizer.decode(task.corrupt[0])


def test_asking_for_too_much_is_named(embedded) -> None:
    with pytest.raises(ValueError, match="n is 0"):
        tasks.induction(embedded.tokenizer, 0)
    with pytest.raises(ValueError, match=r"only \d+ prompts of agreement_simple fit"):
        tasks.agreement(embedded.tokenizer, 500)
    with pytest.raises(ValueError, match="corruption 'none'"):
        tasks.ioi(embedded.tokenizer, 2, corruption="none")
