"""Sequences have the frequencies, shapes and labels that they should; networks made by hand have known accuracies."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.in_context import (
    AttentionClassifier,
    Classes,
    Output,
    Setting,
    draw_classes,
    evaluation_sets,
    measure,
    sequences,
)

SETTING = Setting(classes=32, labels=32, pairs=8, longest=12, burstiness=2, width=64)
CLASSES = draw_classes(SETTING)
N = 4000


def within(share: Tensor, truth: float) -> bool:
    """Four standard errors, of a share of booleans."""
    error = (truth * (1 - truth) / len(share)) ** 0.5
    return abs(float(share.float().mean()) - truth) <= 4 * error


def test_what_an_input_is_made_of() -> None:
    drawn = sequences(CLASSES, N, novel=0.25, seed=3)
    position, vector = drawn.inputs.split([SETTING.positions, SETTING.width], -1)
    first = position[:, 0].argmax(-1)
    assert torch.equal(position.argmax(-1), first[:, None] + torch.arange(17))
    assert torch.equal(position.sum(-1), torch.ones(N, 17))
    assert torch.equal(first.unique(), torch.arange(25 - 17 + 1))
    assert torch.equal(vector[:, 1::2], CLASSES.labels[drawn.context_labels])
    known = drawn.inputs[~drawn.novel]
    means = CLASSES.items[torch.cat([drawn.context, drawn.query[:, None]], 1)[~drawn.novel]]
    rest = known[:, 0::2, SETTING.positions :] * 1.01**0.5 - means
    assert float(rest.square().mean()) == pytest.approx(0.1**2 / 64, rel=0.01)
    assert float(rest.mean()) == pytest.approx(0, abs=1e-4)
    assert within(drawn.novel, 0.25)
    assert torch.equal(drawn.from_weights, torch.where(drawn.novel, -1, drawn.query % 32))
    assert torch.equal(drawn.context_labels, drawn.context % 32)


def test_new_classes_are_new_in_every_call_and_alike_in_one() -> None:
    first, second = (sequences(CLASSES, 500, novel=1.0, seed=s) for s in (1, 2))
    vectors: list[Tensor] = [each.inputs[:, -1, SETTING.positions :] for each in (first, second)]
    normed = [v / v.norm(dim=-1, keepdim=True) for v in vectors]
    same = first.query[:, None] == first.query
    assert float((normed[0] @ normed[0].T)[same].min()) > 0.9
    assert float((normed[0] @ normed[1].T).max()) < 0.7
    assert float((normed[0] @ (CLASSES.items / CLASSES.items.norm(dim=-1, keepdim=True)).T).max()) < 0.7
    assert first.context.max() > 100


@pytest.mark.parametrize("burstiness", [1, 2, 4])
def test_a_bursty_context_holds_its_classes_so_often_and_the_query(burstiness: int) -> None:
    setting = Setting(classes=512, labels=32, pairs=8, burstiness=burstiness)
    drawn = sequences(draw_classes(setting), N, novel=0.5, seed=5)
    counts = (drawn.context[:, :, None] == drawn.context[:, None]).sum(-1)
    assert (counts % burstiness == 0).all()
    assert (drawn.context == drawn.query[:, None]).any(1).all()
    known = drawn.context[~drawn.novel]
    once = torch.tensor([len(row.unique()) == 8 // burstiness for row in known])
    distinct = 1.0
    for i in range(8 // burstiness):
        distinct *= 1 - i / 512
    assert within(once, distinct)
    places = (drawn.context == drawn.query[:, None]).float().mean(0)  # shuffled: everywhere alike
    assert float(places.max() - places.min()) < 0.05


def test_contexts_at_random_hold_the_querys_class_by_chance_alone() -> None:
    """1 - (1 - 1/K)^N = 0.224 for K = 32 and N = 8."""
    loose = sequences(CLASSES, N, bursty=0.0, novel=0.0, seed=6)
    there = (loose.context == loose.query[:, None]).any(1)
    assert within(there, 1 - (1 - 1 / 32) ** 8)
    mixed = sequences(CLASSES, N, bursty=0.4, novel=0.0, seed=7)
    assert within((mixed.context == mixed.query[:, None]).any(1), 0.4 + 0.6 * (1 - (1 - 1 / 32) ** 8))
    absent = sequences(CLASSES, N, bursty=0.0, novel=0.0, absent=True, seed=6)
    assert not (absent.context == absent.query[:, None]).any()
    assert within(absent.query == 3, 1 / 32)


@pytest.mark.parametrize("options", [{"bursty": 1.0}, {"bursty": 0.0}, {"bursty": 0.0, "absent": True}])
def test_frequencies_by_rank(options: dict[str, Any]) -> None:
    classes = draw_classes(Setting(classes=8, labels=2, pairs=4, zipf=1.0))
    drawn = sequences(classes, N, novel=0.0, seed=8, **options)
    total = sum(1 / rank for rank in range(1, 9))
    for rank in (1, 2, 8):
        assert within(drawn.query == rank - 1, 1 / rank / total)


def test_swapped_labels_are_the_right_ones() -> None:
    plain, swapped = (sequences(CLASSES, 200, novel=0.3, seed=9, swapped=s) for s in (False, True))
    assert torch.equal(plain.query, swapped.query)
    moved = torch.where(plain.novel, plain.target, (plain.target + 1) % 32)
    assert torch.equal(swapped.target, moved)
    assert torch.equal(swapped.from_weights[~plain.novel], plain.target[~plain.novel])
    assert (swapped.context_labels == swapped.target[:, None]).any(1).all()


def test_a_seed_says_everything_and_nothing_else_does() -> None:
    torch.manual_seed(0)
    first = sequences(CLASSES, 50, seed=11)
    torch.manual_seed(1)
    assert torch.equal(first.inputs, sequences(CLASSES, 50, seed=11).inputs)
    assert not torch.equal(first.inputs, sequences(CLASSES, 50, seed=12).inputs)
    assert torch.equal(draw_classes(SETTING, seed=3).items, draw_classes(SETTING, seed=3).items)


def test_chance_of_copying() -> None:
    drawn = sequences(CLASSES, 300, bursty=0.0, novel=0.0, seed=13)
    for chance, labels, target in zip(drawn.copy_chance, drawn.context_labels, drawn.target, strict=True):
        distinct = set(labels.tolist())
        assert float(chance) == pytest.approx((int(target) in distinct) / len(distinct))


# Networks made by hand


def copier(classes: Classes) -> AttentionClassifier:
    """Labels take up the item before them, the query looks for its own among these, and copies the label."""
    setting = classes.setting
    places, width = setting.positions, setting.width
    assert places >= width  # what labels take up lies where positions are
    network = AttentionClassifier(setting, hidden=setting.labels)
    for parameter in network.parameters():
        parameter.data.zero_()
    content = torch.arange(width)
    network.queries.data[0, torch.arange(1, places), torch.arange(places - 1)] = 1e4
    network.keys.data[0, torch.arange(places), torch.arange(places)] = 1.0
    network.values.data[0, places + content, content] = 100.0
    network.queries.data[1, places + content, content] = 1e3
    network.keys.data[1, places + content, content] = -100.0  # not itself: the first item has nothing before it
    network.keys.data[1, content, content] = 1.0
    network.values.data[1, places + content, places + content] = 100.0
    first, _, second, _, third = network.classifier
    first.weight.data[:, places:] = classes.labels
    second.weight.data = torch.eye(setting.labels)
    third.weight.data = torch.eye(setting.labels)
    return network


def lookup(classes: Classes) -> Any:
    """Answers with the label of the nearest known class, whatever the context says."""

    def answer(inputs: Tensor) -> Output:
        near = torch.cdist(inputs[:, -1, classes.setting.positions :], classes.items).argmin(-1)
        return Output(torch.nn.functional.one_hot(near % classes.setting.labels, classes.setting.labels).float())

    return answer


HAND = draw_classes(Setting(classes=64, labels=8, width=64, pairs=4, longest=40))


def test_a_copier_learns_in_context_alone() -> None:
    found = measure(copier(HAND), evaluation_sets(HAND, 500))
    mean = found.estimates
    assert [mean[name].value for name in ("plain", "novel", "swapped", "copied")] == [1, 1, 1, 1]
    assert mean["swapped_from_weights"].value == 0
    # It answers with the label of some other class, one of the seven others of its label's eight by chance.
    assert abs(mean["weights"] - found.chance["weights"][1]) < 4 * mean["weights"].standard_error
    assert mean["item_label.0"] == pytest.approx(1, abs=1e-6)
    assert mean["correct_label.1"] > 0.4  # spread over two right ones, so half, or all on the nearer
    assert mean["any_label.1"] == pytest.approx(1, abs=1e-6)


def test_a_lookup_learns_in_weights_alone() -> None:
    found = measure(lookup(HAND), evaluation_sets(HAND, 500))
    mean = found.estimates
    assert [mean[name].value for name in ("weights", "swapped_from_weights", "swapped")] == [1, 1, 0]
    assert abs(mean["novel"] - 1 / 8) < 4 * mean["novel"].standard_error
    assert found.chance["novel"][0] == 1 / 8
    assert not any("." in name for name in mean)  # it attends to nothing


def test_attention_is_averaged_where_there_is_a_right_and_a_wrong_label() -> None:
    """Against loops over pairs, on patterns at random."""
    drawn = sequences(HAND, 60, bursty=1.0, novel=1.0, seed=4)
    pattern = torch.rand(60, 9, 9).tril()
    pattern = pattern / pattern.sum(-1, keepdim=True)
    found = measure(lambda _inputs: Output(torch.zeros(60, 8), (pattern,)), {"novel": drawn}).rows
    for i in range(60):
        pairs = [(float(pattern[i, 8, 2 * j + 1]), drawn.context_labels[i, j] == drawn.target[i]) for j in range(4)]
        right, wrong = [a for a, yes in pairs if yes], [a for a, yes in pairs if not yes]
        if wrong:
            expected = sum(right) / len(right) - sum(wrong) / len(wrong)
            assert float(found["correct_label.0"][i]) == pytest.approx(expected, abs=1e-6)
        else:
            assert found["correct_label.0"][i].isnan()
        before = sum(float(pattern[i, 2 * j + 1, 2 * j]) for j in range(4)) / 4
        assert float(found["item_label.0"][i]) == pytest.approx(before, abs=1e-6)
    assert found["correct_label.0"].isnan().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 30, "labels": 8}, "30 classes cannot be shared out to 8 labels"),
        ({"pairs": 4, "burstiness": 3}, "burstiness 3 does not fit into 4 pairs"),
        ({"pairs": 4, "burstiness": 4}, "burstiness 4 does not fit into 4 pairs"),
        ({"longest": 3}, "longest is 3; there must be positions for all 4 pairs"),
        ({"novel": 1.5}, "novel is 1.5; it is a share"),
        ({"noise": float("nan")}, "noise is nan; it must be from 0 to 1000"),
        ({"width": 0}, "width is 0; it must be 1 or more"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setting(**options)


def test_sequences_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="give one sequence or more"):
        sequences(HAND, 0)
    with pytest.raises(ValueError, match="pass bursty=0 and novel=0"):
        sequences(HAND, 3, absent=True)
    alone = draw_classes(Setting(classes=8, labels=2, zipf=4000.0))
    with pytest.raises(ValueError, match="give a smaller zipf"):
        sequences(alone, 3, bursty=0.0, novel=0.0, absent=True)
