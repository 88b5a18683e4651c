"""Absorption where it was planted, to the share, and where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from saes import SAE, TopK
from saes.suites import absorption, plant
from saes.suites.absorbing import Thresholds, absorbed, main_latents
from saes.suites.texts.examples import Examples
from tests.saes.suites.sets import seen, yes_no


@pytest.mark.parametrize(("strength", "full"), [(1.0, 1.0), (0.6, 0.0)])
def test_planted_absorption_is_found_to_the_share(strength: float, full: float) -> None:
    """10 of 40 children, each in 1 of 40 of their parent's rows, absorb it."""
    planted = plant(roots=3, children={0: 40}, d=48, seed=0, child_share=1.0, low=1.0)
    absorbing = planted.absorbing_dictionary(dict.fromkeys(range(3, 13), strength))
    examples, fires = seen(planted, absorbing, n=6000)
    found = absorption(absorbing, examples, yes_no(fires[:, 0]))
    yes = found.labels[1]
    assert yes.main == (0,)
    assert yes.probe_f1 > 0.99
    assert yes.fraction is not None
    assert yes.full is not None
    truth = 0.25
    assert abs(yes.full.value - truth * full) <= 4 * yes.full.standard_error
    assert abs(yes.fraction.value - truth * strength) < 4 * yes.fraction.standard_error + 0.02
    assert yes.fraction.n == yes.recognised > 1000
    if full:
        assert {latent for latent, _ in yes.absorbers} == set(range(3, 13))


def test_of_single_examples_by_hand() -> None:
    """Directions e0 (the concept) and e1; latent 0 is main, 1 writes both, 2 writes nothing of it, 3 a little."""
    W_dec = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.05, 0.9987]], dtype=torch.float64)
    latents = np.array(
        [
            [1.0, 0.0, 0.0, 0.0],  # all by the main latent
            [0.0, 1.0, 0.0, 0.0],  # 0.6 of 0.6 by the other: whole
            [0.4, 1.0, 0.0, 0.0],  # 0.6 of 1.0: a fraction of 0.6
            [0.0, 0.5, 0.0, 0.0],  # 0.3 of 1.0: below the proportion
            [0.0, 0.0, 1.0, 0.0],  # nothing along it
            [0.0, 0.0, 0.0, 1.0],  # along it, by a latent that is hardly aligned: full alone has that low a bound
            [0.9, 1.0, 0.0, 0.0],  # main 0.9 of 1.0: at most 0.1 is left for the other
        ]
    )
    a = torch.tensor([1.0, 0.6, 1.0, 1.0, 1.0, 0.05, 1.0], dtype=torch.float64)
    x = torch.stack([a, torch.zeros_like(a)], 1)
    direction = torch.tensor([3.0, 0.0], dtype=torch.float64)
    found = absorbed(x, sparse.csr_array(latents), W_dec, direction, (0,))
    assert found.fraction.tolist() == pytest.approx([0, 1, 0.6, 0, 0, 0, 0.1])
    assert found.full.tolist() == [0, 1, 0, 0, 0, 1, 0]
    assert found.top[1] == 1
    negative = absorbed(-x, sparse.csr_array(latents), W_dec, direction, (0,))
    assert negative.fraction.tolist() == [0] * 7
    assert negative.full.tolist() == [0] * 7


def test_the_true_dictionary_absorbs_nothing() -> None:
    planted = plant(roots=6, children={0: 5}, d=16, seed=0)
    sae = planted.true_dictionary()
    examples, fires = seen(planted, sae, n=2000)
    found = absorption(sae, examples, yes_no(fires[:, 0]))
    assert found.labels[1].fraction is not None
    assert found.labels[1].fraction.value == 0
    assert found.full.value == 0


@pytest.mark.parametrize("top_rate", [0.2, 0.5, 0.8])
def test_shuffled_labels_are_refused(top_rate: float) -> None:
    """Also where most texts have the label, so that a probe that knows nothing has a high F1."""
    planted = plant(roots=6, children={0: 5}, d=16, seed=0, top_rate=top_rate)
    sae = planted.true_dictionary()
    examples, fires = seen(planted, sae, n=1000)
    texts = yes_no(fires[:, 0]).shuffled(seed=1)
    with pytest.raises(ValueError, match=r"holds none of the labels at this site\. The best probe, of '(yes|no)', has"):
        absorption(sae, examples, texts)


def test_main_latents_grow_with_feature_splitting() -> None:
    """A concept that two latents share evenly has two; a third that adds nothing is not taken."""
    generator = np.random.default_rng(0)
    which, noise = generator.integers(0, 4, 2000), generator.random(2000) * (generator.random(2000) < 0.1)
    latents = np.stack([which == 0, which == 1, noise, which == 2], 1).astype(np.float64)
    examples = Examples(x=torch.zeros(2000, 4), latents=sparse.csr_array(latents))
    main, score = main_latents(examples, which <= 1, Thresholds())
    assert set(main) == {0, 1}
    assert score == 1


def test_what_it_cannot_take_is_named() -> None:
    transcoder = SAE(8, 4, TopK(1), d_out=6, subtract_b_dec=False)
    planted = plant(roots=4, d=8, seed=0)
    examples, fires = seen(planted, planted.true_dictionary(), n=100)
    with pytest.raises(ValueError, match=r"absorption looks at what latents write .* transcoder"):
        absorption(transcoder, examples, yes_no(fires[:, 0]))
    normal = SAE(8, 4, TopK(1), layer_norm=True)
    with pytest.raises(ValueError, match="this SAE normalises each activation first"):
        absorption(normal, examples, yes_no(fires[:, 0]))
    means = replace(yes_no(fires[:, 0]), position="mean")
    with pytest.raises(ValueError, match="absorption is of single tokens, and planted takes means"):
        absorption(planted.true_dictionary(), examples, means)
