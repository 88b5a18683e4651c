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
from circuits.tasks.roles import mean_over_prompts
from interp.embedded.synthetic import PLACES, TEMPLATES
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
        with pytest.raises(ValueError, match="flat at the clean run"):  # its one point is that run
            circuits.attribute(model, task, nodes="mlp_out", method="ig", steps=1)
        for nodes, method in (("mlp_out", "ig"), ("mlp_out", "patching"), ("edges", "eap-ig")):
            found = circuits.attribute(model, task, nodes=nodes, method=method)
            assert float(found.values.abs().max()) > 1e-2
        there = circuits.attribute(model, task.replace(direction="denoise"), nodes="mlp_out", method="atp")
        assert float(there.values.abs().max()) > 1e-2
    sae = SAE(32, 64, TopK(4), site="blocks.1.hook_resid_post").initialise(seed=0, mean=torch.zeros(32))
    with pytest.raises(ValueError, match="flat at the clean run"):
        circuits.attribute(model, flat, nodes="latents", method="atp", saes=[sae])
    with pytest.raises(ValueError, match="flat at the clean run"):
        circuits.attribute(model, flat, nodes="latents", method="ig", steps=1, saes=[sae])
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


def positions_of(tokenizer, row: torch.Tensor, word: int) -> list[int]:
    return [i for i, token in enumerate(row.tolist()) if token == word]


@pytest.mark.parametrize("corruption", ["swap", "other_subject", "three_names"])
@pytest.mark.parametrize("order", ["ABBA", "BABA"])
def test_a_position_of_ioi_is_the_same_part_of_every_sentence(embedded, corruption: str, order: str) -> None:
    """The names stand where the labels say, in every prompt; words that never change are the same in all."""
    task = tasks.ioi(embedded.tokenizer, 12, seed=3, corruption=corruption, orders=order)
    assert task.role_numbers is None
    assert task.labels is not None
    at = {label: i for i, label in enumerate(task.labels)}
    first, second = ("[IO]", "[S1]") if order == "ABBA" else ("[S1]", "[IO]")
    assert at[first] < at[second] < at["[place]"] < at["[S2]"] < at["[object]"]
    for row, correct, wrong in zip(task.clean, task.correct, task.wrong, strict=True):
        assert positions_of(embedded.tokenizer, row, int(correct[0])) == [at["[IO]"]]
        assert positions_of(embedded.tokenizer, row, int(wrong[0])) == [at["[S1]"], at["[S2]"]]
    fixed = [i for label, i in at.items() if not label.startswith("[")]
    assert len(fixed) > 8
    for prompts in (task.clean, task.corrupt):
        assert (prompts[:, fixed] == task.clean[0, fixed]).all()


def test_no_built_in_task_mixes_roles(embedded, years) -> None:
    """Words of one token and of two are not mixed at one position: every label's tokens decode to its kind of word."""
    tokenizer = embedded.tokenizer
    for form in tasks.FORMS:
        task = tasks.agreement(tokenizer, 8, form=form)
        assert task.role_numbers is None
        for label, column in zip(task.labels or (), task.clean.T.tolist(), strict=True):
            words = {tokenizer.decode([i]).strip() for i in column}
            kinds = {
                "[subject]": {w for pair in built_in._NOUNS for w in pair},
                "[other]": {w for pair in built_in._NOUNS for w in pair},
                "[verb]": set(built_in._CLAUSE_VERBS),
            }
            assert words <= kinds.get(label, words)
            assert label.startswith("[") or len(words) == 1
    task = tasks.docstring(tokenizer, 3)
    where = [i for i, label in enumerate(task.labels or ()) if label == "[def 1]"]
    for row in task.clean:
        shown = tokenizer.decode(row, skip_special_tokens=True)
        assert tokenizer.decode(row[where]).strip() == shown.split("self, ")[1].split(",")[0]
    task = tasks.greater_than(years, 6)
    assert (task.labels or ())[-1] == "[century]"
    assert [i for i, label in enumerate(task.labels or ()) if label == "[year]"] == [
        int((task.clean[0] != task.corrupt[0]).nonzero()[0])
    ]


def mixed(tokenizer, n: int = 12, **options) -> Task:
    return tasks.ioi(tokenizer, n, templates=TEMPLATES["heldout"], orders=tasks.ORDERS, **options)


def test_several_templates_have_roles(embedded) -> None:
    tokenizer = embedded.tokenizer
    task = mixed(tokenizer)
    assert task.role_numbers is not None
    assert {"BOS", "IO", "S1", "S2", "place", "object", "text", "end"} == set(task.columns or ())
    assert task.roles is not None
    places = set()
    for roles, row, correct, wrong in zip(task.roles, task.clean, task.correct, task.wrong, strict=True):
        at = {role: [i for i, other in enumerate(roles) if other == role] for role in set(roles)}
        assert positions_of(tokenizer, row, int(correct[0])) == at["IO"]
        assert positions_of(tokenizer, row, int(wrong[0])) == sorted(at["S1"] + at["S2"])
        assert tokenizer.decode(row[at["place"]]).strip() in PLACES
        assert at["end"] == [task.length - 1]
        places.add((*at["IO"], *at["S2"]))
    assert len(places) > 2
    part = task.rows([0, 3])
    assert part.roles == (task.roles[0], task.roles[3])


@pytest.mark.parametrize("method", ["patching", "atp", "relp", "ig"])
def test_scores_by_role_are_those_of_each_prompts_own_positions(embedded, method: str) -> None:
    """Every prompt alone has an aligned task, whose positions are then put together by hand; patched, they are patched
    together."""
    task = mixed(embedded.tokenizer, 3)
    options = {"method": method} | ({"steps": 2} if method == "ig" else {})
    found = circuits.attribute(embedded, task, nodes=["mlp_out", "z"], **options)
    assert found["z"].labels == task.columns
    assert found["z"].axes == ("layer", "position", "head")
    scale = found["z"].clean_metric - found["z"].corrupt_metric
    for row in range(3):
        alone = task.rows([row])
        assert alone.role_numbers is None
        if method == "patching":
            merged = circuits.attribute(embedded, doubled(alone), nodes="mlp_out", method="patching")
            order = [(merged.labels or ()).index(role) for role in task.columns or ()]
            expected, clean, corrupt = merged.per_prompt[0][:, order], merged.clean_metric, merged.corrupt_metric
        else:
            own = circuits.attribute(embedded, alone, nodes="mlp_out", **options)
            expected = torch.stack(
                [
                    own.per_prompt[0][:, [r == role for r in (task.roles or ())[row]]].sum(-1)
                    for role in task.columns or ()
                ],
                -1,
            )
            clean, corrupt = own.clean_metric, own.corrupt_metric
        torch.testing.assert_close(
            found["mlp_out"].per_prompt[row] * scale, expected * (clean - corrupt), rtol=1e-3, atol=2e-4
        )


def doubled(task: Task) -> Task:
    """One prompt twice, once with its roles in another order: so that the position axis is one of roles, and by the
    first row alone."""
    assert task.roles is not None
    twice = {name: getattr(task, name).repeat(2, 1) for name in ("clean", "corrupt", "correct", "wrong")}
    return Task(**twice, roles=[task.roles[0], task.roles[0][::-1]])


def test_means_by_role(embedded) -> None:
    roles = torch.tensor([[0, 1, 1], [1, 0, 0]])
    values = torch.tensor([[1.0, 2.0, 4.0], [6.0, 3.0, 5.0]])[..., None]
    expected = torch.tensor([[3.0, 4.0, 4.0], [4.0, 3.0, 3.0]])[..., None]
    assert torch.equal(mean_over_prompts(values, roles), expected)
    assert torch.equal(mean_over_prompts(values, None)[0], values.mean(0))
    task = mixed(embedded.tokenizer, 4)
    evaluator = circuits.Evaluator(embedded, task, ablation="mean")
    reference, written = evaluator._patcher.reference, evaluator._patcher.written(task.corrupt)
    assert reference is not None
    for role in task.columns or ():
        here = torch.tensor([[own == role for own in row] for row in task.roles or ()])
        expected = written[:, here].mean(1, keepdim=True).expand_as(written[:, here])
        torch.testing.assert_close(reference[:, here], expected, rtol=1e-4, atol=1e-5)


def test_what_is_by_position_refuses_several_templates(embedded) -> None:
    task = mixed(embedded.tokenizer, 4)
    sae = SAE(48, 64, TopK(4), site="blocks.1.hook_resid_post")
    whole = circuits.Circuit.from_edges(circuits.attribute_edges(embedded, task, method="eap"))
    for act in (
        lambda: circuits.attribute(embedded, task, nodes="latents", saes=[sae]),
        lambda: circuits.FeatureEvaluator(embedded, task, [sae]),
        lambda: unfold(embedded, task, whole),
        lambda: circuits.Explorer(whole, model=embedded, task=task),
    ):
        with pytest.raises(ValueError, match="one position has several roles: draw them from one template"):
            act()
    for changes, message in (
        ({"roles": [["a", "b"], ["a", "b"]]}, r"roles must name 2 positions of 1 prompts, not \[2\] of 2"),
        ({"roles": [["a"]]}, r"not \[1\] of 1"),
    ):
        with pytest.raises(ValueError, match=message):
            small(**changes)
    with pytest.raises(ValueError, match="do not both have a role 'b'"):
        small(clean=[[1, 2], [1, 4]], corrupt=[[1, 3], [1, 5]], correct=[0, 0], wrong=[1, 1], roles=["ab", "aa"])
    with pytest.raises(ValueError, match=r"orders \['AB'\] are not among ABBA, BABA"):
        tasks.ioi(embedded.tokenizer, 2, orders="AB")
    with pytest.raises(ValueError, match="templates is empty"):
        tasks.ioi(embedded.tokenizer, 2, templates=[])


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
