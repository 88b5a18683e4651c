"""Clamps put there what they say, let no gradient through to what they replace, and shorten the plateau."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.in_context import AttentionClassifier, Sequences, Setting, TrainConfig, draw_classes, sequences, train

SETTING = Setting(classes=8, labels=4, width=12, pairs=4, burstiness=2, novel=0.5)
CLASSES = draw_classes(SETTING)
DRAWN = sequences(CLASSES, 30, seed=2)


def network(*clamped: str) -> AttentionClassifier:
    return AttentionClassifier(SETTING, hidden=16, seed=1, clamped=clamped, labels=CLASSES.labels)


def gradients(*clamped: str, drawn: Sequences = DRAWN) -> dict[str, Tensor | None]:
    made = network(*clamped)
    cross_entropy(made(drawn.inputs).logits, drawn.target).backward()
    found: dict[str, Tensor | None] = {}
    for name in ("queries", "keys", "values"):
        whole = made.get_parameter(name).grad
        found |= {f"{name}.{layer}": None if whole is None else whole[layer] for layer in range(2)}
    return found | {"classifier": made.get_parameter("classifier.0.weight").grad}


def test_previous_looks_back() -> None:
    patterns = network("previous")(DRAWN.inputs).patterns
    expected = torch.diag(torch.ones(8), -1)
    expected[0, 0] = 1
    assert torch.equal(patterns[0], expected.expand(30, 9, 9))
    assert torch.allclose(patterns[1].sum(-1), torch.ones(30, 9))
    assert not torch.equal(patterns[1], network()(DRAWN.inputs).patterns[1])


def test_match_looks_at_the_label_of_the_nearest_item() -> None:
    made = network("match")
    output = made(DRAWN.inputs)
    vectors = DRAWN.inputs[:, :, SETTING.positions :]
    for i in range(30):
        items, query = vectors[i, 0:8:2], vectors[i, 8]
        best = max(range(4), key=lambda j: float(items[j] @ query / items[j].norm()))
        assert output.patterns[1][i, -1].tolist() == [float(k == 2 * best + 1) for k in range(9)]
        assert DRAWN.context[i, best] == DRAWN.query[i]
        stream = DRAWN.inputs[i] + output.patterns[0][i] @ (DRAWN.inputs[i] @ made.values[0])
        last = stream[-1] + stream[2 * best + 1] @ made.values[1]
        assert torch.allclose(output.logits[i], made.classifier(last), atol=1e-5)


def test_copy_answers_with_the_scores_of_labels() -> None:
    made = network("copy")
    output = made(DRAWN.inputs)
    stream = DRAWN.inputs + output.patterns[0] @ (DRAWN.inputs @ made.values[0])
    scores = (stream @ made.queries[1]) @ (stream @ made.keys[1]).mT / SETTING.input_width**0.5
    for i in range(30):
        for label in range(4):
            places = (DRAWN.context_labels[i] == label).nonzero()[:, 0]
            if len(places):
                expected = scores[i, -1, 2 * places + 1].exp().sum().log()
                assert torch.allclose(output.logits[i, label], expected, atol=1e-5)
            else:
                assert output.logits[i, label] < -1e8
    assert torch.isfinite(output.logits).all()


def test_first_gives_layer_1_what_it_needs_and_reads_the_inputs() -> None:
    made = network("first", "match")
    output = made(DRAWN.inputs)
    looks = DRAWN.inputs.clone()
    looks[:, 1:8] = DRAWN.inputs[:, 0:7]
    scores = (looks @ made.queries[1]) @ (looks @ made.keys[1]).mT / SETTING.input_width**0.5
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(future, -torch.inf).softmax(-1)
    assert torch.allclose(output.patterns[1][:, :-1], expected[:, :-1], atol=1e-6)
    read = DRAWN.inputs[:, -1] + (output.patterns[1] @ (DRAWN.inputs @ made.values[1]))[:, -1]
    assert torch.allclose(output.logits, made.classifier(read), atol=1e-5)


@pytest.mark.parametrize(
    ("clamped", "still"),
    [
        (("previous",), {"queries.0", "keys.0"}),
        (("match",), {"queries.1", "keys.1"}),
        (("copy",), {"values.1", "classifier"}),
        (("first",), {"queries.0", "keys.0", "values.0"}),
        (("first", "copy"), {"queries.0", "keys.0", "values.0", "values.1", "classifier"}),
        ((), set()),
    ],
    ids=["previous", "match", "copy", "first", "first and copy", "nothing"],
)
def test_what_is_replaced_gets_no_gradient_and_all_the_rest_does(clamped: tuple[str, ...], still: set[str]) -> None:
    found = gradients(*clamped)
    assert {name for name, each in found.items() if each is None or not each.any()} == still


def test_clamps_that_cannot_be() -> None:
    for clamped, message in (
        (("prev",), "clamped has prev; there are previous, first, match, copy"),
        (("match", "copy"), "match and copy cannot both be clamped"),
        (("previous", "first"), "previous and first cannot both be clamped"),
    ):
        with pytest.raises(ValueError, match=message):
            network(*clamped)
        with pytest.raises(ValueError, match=message):
            TrainConfig(clamped=clamped)
    with pytest.raises(ValueError, match=r"pass labels=classes\.labels"):
        AttentionClassifier(SETTING, clamped=("copy",))


def test_a_clamped_match_ends_the_plateau_at_once(tmp_path: Path) -> None:
    """Within 100 steps; without it the network is still guessing among the labels of its context."""
    sizes = {"classes": 8, "labels": 4, "pairs": 2, "burstiness": 1, "novel": 1.0, "hidden": 32, "batch": 64}
    for clamped, low, high in (((), 0.0, 0.75), (("match",), 0.95, 1.0)):
        config = TrainConfig(**sizes, steps=100, checkpoints=2, learning_rate=3e-3, sequences=300, clamped=clamped)  # type: ignore[arg-type]
        accuracy = train(config, tmp_path / "-".join(("run", *clamped))).curve("novel")[-1]
        assert low <= accuracy <= high
