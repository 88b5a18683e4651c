"""SCR and TPP where a perfect dictionary must reach the best value there is, and a random one must do nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from saes import SAE, TopK
from saes.suites import (
    LabelledTexts,
    Planted,
    built_in,
    examples_from_rows,
    perturb_targets,
    plant,
    remove_spurious,
)
from saes.suites.combining import Part, combined, without
from saes.suites.texts.examples import Examples
from tests.saes.suites.sets import labelled


def choices(*counts: int, d: int = 24) -> Planted:
    """Roots that always fire, each with one of so many children: one choice a root and row."""
    return plant(
        roots=len(counts), children=dict(enumerate(counts)), d=d, seed=0, top_rate=1.0, exponent=0.0, child_share=1.0
    )


def chosen(planted: Planted, n: int = 1200, seed: int = 1) -> tuple[torch.Tensor, list[list[str]]]:
    """Rows, and of each root which child fires."""
    rows = planted.rows(n, seed=seed)
    roots = int((planted.parents < 0).sum())
    which = [rows.fires[:, planted.children(root)].float().argmax(1) for root in range(roots)]
    return rows.x, [[str(child) for child in each.tolist()] for each in which]


def crossed(planted: Planted) -> tuple[torch.Tensor, LabelledTexts]:
    x, (first, second) = chosen(planted)
    return x, replace(labelled(first), second=tuple(second))


def random_dictionary(d: int = 24) -> SAE:
    return SAE(d, 64, TopK(4)).initialise(seed=3, mean=torch.zeros(d))


def test_a_perfect_dictionary_removes_all_of_a_bias() -> None:
    """Wanted and spurious weigh alike, so that the biased probe is right in 3 of 4, and wholly right without the two
    latents of the spurious one."""
    planted = choices(2, 2)
    x, texts = crossed(planted)
    sae = planted.true_dictionary()
    found = remove_spurious(sae, examples_from_rows(sae, x), texts, ns=(2,))
    for number, one in enumerate(found.directions):
        assert one.clean.value == 1
        assert abs(one.biased.value - 0.75) < 0.12  # a row with one of each is decided by noise
        assert set(one.latents) == set(planted.children(1 - number))
        (removed,) = one.by_count
        assert removed.accuracy.value == pytest.approx(1, abs=0.01)
        assert removed.scr.value == pytest.approx(1, abs=0.04)
        assert removed.scr.n > 100
    assert found.by_count == found.directions[found.chosen].by_count
    worse = found.directions[found.chosen].biased.value
    assert worse == min(one.biased.value for one in found.directions)


def test_random_dictionaries_remove_little_and_ablating_what_is_wanted_makes_it_worse() -> None:
    planted = choices(2, 2)
    x, texts = crossed(planted)
    found = remove_spurious(random_dictionary(), examples_from_rows(random_dictionary(), x), texts, ns=(2,))
    assert abs(found.by_count[0].scr.value) < 0.35
    # A dictionary with nothing but the wanted choice's latents can only take that away.
    sae = planted.true_dictionary()
    with torch.no_grad():
        for feature in range(len(planted.directions)):
            if feature not in planted.children(0):
                sae.W_enc[:, feature] = 0
    mixed = planted.true_dictionary()
    with torch.no_grad():  # its latents of the spurious choice write the wanted one's directions too
        mixed.W_dec[planted.children(1)] += 2 * planted.directions[planted.children(0)]
    wrong = remove_spurious(mixed, examples_from_rows(mixed, x), texts, ns=(2,)).directions[0].by_count[0]
    assert wrong.scr.value < 0.7
    none = remove_spurious(sae, examples_from_rows(sae, x), texts, ns=(2,)).directions[0].by_count[0]
    assert none.scr.value <= 0.05


def test_without_a_bias_there_is_nothing_to_remove() -> None:
    planted = choices(2, 2)
    x, texts = crossed(planted)
    sae = planted.true_dictionary()
    examples = examples_from_rows(sae, x)
    shuffled = replace(texts.shuffled(seed=3), second=replace(texts, labels=texts.second).shuffled(seed=5).labels)
    with pytest.raises(ValueError, match=r"the bias costs a probe -?0\.\d+ of accuracy, less than 0\.05"):
        remove_spurious(sae, examples, shuffled, ns=(2,))


def test_a_perfect_dictionary_takes_half_from_one_class_and_nothing_from_others() -> None:
    """Every row with the class is answered no, and nothing else changes: of balanced accuracy one half is lost."""
    planted = choices(5)
    x, (labels,) = chosen(planted)
    sae = planted.true_dictionary()
    found = perturb_targets(sae, examples_from_rows(sae, x), labelled(labels), ns=(1, 2))
    assert found.accuracies == (1.0,) * 5
    for one in found.by_count:  # a second latent is not there to be found, or is of no effect
        assert one.tpp.value == pytest.approx(0.5)
        assert one.intended.value == pytest.approx(0.5)
        assert one.unintended.value == pytest.approx(0)
    assert [latents[0] for latents in found.latents] == planted.children(0)


def test_a_latent_of_two_classes_hits_both() -> None:
    """Classes 0 and 1 share a latent: ablating it for one costs the other as much, out of four others."""
    planted = choices(5)
    x, (labels,) = chosen(planted)
    sae, (a, b, *rest) = planted.true_dictionary(), planted.children(0)
    with torch.no_grad():
        for weights in (sae.W_enc.T, sae.W_dec):
            weights[a] = planted.directions[a] + planted.directions[b]
            weights[b] = 0.0
    found = perturb_targets(sae, examples_from_rows(sae, x), labelled(labels), ns=(1,)).by_count[0]
    assert found.intended.value == pytest.approx(0.5, abs=0.02)
    assert found.unintended.value == pytest.approx(2 / 5 * 0.5 / 4, abs=0.02)
    assert len(rest) == 3


def test_random_dictionaries_and_shuffled_labels_do_nothing() -> None:
    planted = choices(5)
    x, (labels,) = chosen(planted)
    found = perturb_targets(random_dictionary(), examples_from_rows(random_dictionary(), x), labelled(labels), ns=(2,))
    assert abs(found.by_count[0].tpp.value) < 0.12
    sae = planted.true_dictionary()
    shuffled = labelled(labels).shuffled(seed=1)
    found = perturb_targets(sae, examples_from_rows(sae, x), shuffled, ns=(2,))
    assert all(abs(accuracy - 0.5) < 0.12 for accuracy in found.accuracies)
    assert abs(found.by_count[0].tpp.value) < 4 * found.by_count[0].tpp.standard_error + 0.02


def test_ablation_takes_out_what_latents_write() -> None:
    planted = choices(3)
    sae, x = planted.true_dictionary(), planted.rows(50, seed=0).x
    dense = sae.encode(x).to_dense()
    dense[:, [1, 2]] = 0
    kept = dense @ sae.W_dec + (x - sae(x))
    found = without(sae, examples_from_rows(sae, x), np.array([1, 2]))
    assert torch.allclose(torch.from_numpy(found).float(), kept, atol=1e-6)


def test_errors_of_sums_are_those_of_draws() -> None:
    """Against many draws of groups: two means over overlapping values."""
    generator = np.random.default_rng(0)

    def draw() -> tuple[float, float]:
        z = generator.normal(size=40)
        values, groups = np.repeat(z, 3) + generator.normal(size=120), np.repeat(np.arange(40), 3)
        one = combined([Part(weight=w, values=values[:n], groups=groups[:n]) for w, n in ((1.0, 120), (-0.5, 60))])
        return one.value, one.standard_error

    draws = np.array([draw() for _ in range(400)])
    assert draws[:, 0].std() == pytest.approx(np.sqrt((draws[:, 1] ** 2).mean()), rel=0.12)
    assert np.isnan(combined([Part(weight=1.0, values=np.ones(2), groups=np.zeros(2))]).standard_error)


def test_sets_that_do_not_fit_are_named(embedded: TransformerBridge) -> None:
    planted = choices(2, 2)
    x, texts = crossed(planted)
    sae = planted.true_dictionary()
    examples = examples_from_rows(sae, x)
    with pytest.raises(ValueError, match="has 2 labels: of two each is the other's opposite"):
        perturb_targets(sae, examples, texts)
    with pytest.raises(ValueError, match=r"label and second; it has 2 and 0"):
        remove_spurious(sae, examples, replace(texts, second=()))
    with pytest.raises(ValueError, match="0 texts have one of the four combinations"):
        remove_spurious(sae, examples, replace(texts, second=texts.labels))
    with pytest.raises(ValueError, match=r"ns = \[0\]"):
        remove_spurious(sae, examples, texts, ns=(0,))
    few = Examples(x=examples.x[:5], latents=examples.latents[:5])
    with pytest.raises(ValueError, match="5 examples, 1200 texts"):
        remove_spurious(sae, few, texts)
    own = built_in("who_where", embedded.tokenizer)
    assert len(set(zip(own.labels, own.second, strict=True))) == 4
