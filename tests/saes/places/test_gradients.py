"""Gradient conformance of every kind, variant and term, in float64: along a random direction of every weight at once,
and the sum over single terms is that of the loss."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from saes import BatchTopK, Latents
from saes.places import Dictionary
from saes.places.losses import Forward, run
from tests.saes.places.kinds import D_SAE, dense_decode, dense_pre, inputs, random_dictionary
from tests.saes.variants import VARIANTS

KINDS = ("transcoders-skip", "clt-skip", "crosscoder")
EVERYWHERE = ("mse", "l1", "aux", "afa", "afa_centred")
OWN = {"gated": ("gate_l1", "gate_mse"), "jumprelu": ("l0", "tanh", "pre_act")}
CASES = [(name, term) for name, variant in VARIANTS.items() for term in (*EVERYWHERE, *OWN.get(variant.name, ()))]
STEP = 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("variant", "term"), CASES, ids=["-".join(case) for case in CASES])
def test_gradient_is_that_of_finite_differences(kind: str, variant: str, term: str) -> None:
    dictionary = random_dictionary(kind, VARIANTS[variant]).train()
    compare(dictionary, term)


@pytest.mark.parametrize("kind", ["transcoders-skip", "clt-skip", "crosscoder"])
@pytest.mark.parametrize("term", EVERYWHERE)
@pytest.mark.parametrize("decoder_norms", [False, True])
def test_gradient_with_one_budget_for_all(kind: str, term: str, decoder_norms: bool) -> None:
    compare(random_dictionary(kind, BatchTopK(4, decoder_norms=decoder_norms), budget="all").train(), term)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backward", ["sparse", "dense"])
def test_both_ways_backward_agree(kind: str, backward: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few latents are gathered and summed by latent, many go through dense products."""
    limit = 1.0 if backward == "sparse" else 0.0
    monkeypatch.setattr("saes.kernels.encode.DENSE_ABOVE", limit)
    monkeypatch.setattr("saes.sae.GATHER_UP_TO", limit)
    dictionary, xs, targets = random_dictionary(kind, VARIANTS["topk"]).train(), inputs(), inputs(seed=9)
    forward = run(dictionary, xs, targets, torch.zeros(len(dictionary.parts), D_SAE, dtype=torch.bool))
    forward.term("mse").backward()
    gradients = {name: p.grad.clone() for name, p in dictionary.named_parameters() if p.grad is not None}
    dictionary.zero_grad()
    dense = [
        torch.where(its.to_dense() > 0, pre, 0)
        for its, pre in zip(forward.latents, dense_pre(dictionary, xs), strict=True)
    ]
    outputs = dense_decode(dictionary, dense, xs)
    if kind == "crosscoder":
        (torch.cat(outputs, -1) - torch.cat(targets, -1)).square().mean().backward()
    else:
        torch.stack([(t - y).square().mean() for t, y in zip(targets, outputs, strict=True)]).sum().backward()
    for name, parameter in dictionary.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-12, msg=name)


def compare(dictionary: Dictionary, term: str) -> None:
    xs, targets = inputs(), inputs(seed=9)
    if dictionary.layout.autoencodes:
        targets = xs
    dead = torch.stack([its.to_dense().sum(0) == 0 for its in dictionary.encode(xs)])
    dead[:, :3] = True  # so that some dead latents are active too: the term must not care
    before, frozen = run(dictionary, xs, targets, dead), copy.deepcopy(dictionary)
    before.term(term).backward()
    generator, reached = torch.Generator().manual_seed(5), 0.0
    for name, weights in dictionary.named_parameters():
        if not weights.requires_grad or name.endswith("threshold"):
            continue
        analytic = torch.zeros_like(weights) if weights.grad is None else weights.grad
        direction = torch.randn(weights.shape, generator=generator, dtype=weights.dtype)
        ends = [moved(dictionary, weights, direction * sign * STEP, term, before, frozen) for sign in (1, -1)]
        numeric = (ends[0] - ends[1]) / (2 * STEP)
        found = float((analytic * direction).sum())
        assert found == pytest.approx(numeric, rel=1e-5, abs=1e-7), name
        reached += abs(found)
    assert reached > 0 or term == "l0"


@torch.no_grad()
def moved(dictionary: Dictionary, weights: Tensor, by: Tensor, term: str, before: Forward, frozen: Dictionary) -> float:
    """The term where one weight is moved; what it holds constant comes from ``before`` and the ``frozen`` copy."""
    original = weights.clone()
    weights += by
    after = run(dictionary, before.xs, before.targets, torch.stack([p.dead for p in before.passes]))
    if term == "aux" and dictionary.activation.detach_aux_error:
        value = rebuilt_error(dictionary, before, frozen)
    elif term == "gate_mse":
        gates = [Latents(its.pre, its.indices, its.d_sae) for its in after.latents]  # type: ignore[arg-type]
        value = of_places(dictionary, after.targets, frozen.decode(gates, after.xs))
    else:
        value = after.term(term)
    weights.copy_(original)
    return float(value)


def rebuilt_error(dictionary: Dictionary, before: Forward, frozen: Dictionary) -> Tensor:
    """AuxK by its definition, of an error that does not move."""
    total = torch.zeros((), dtype=torch.float64)
    pres = dense_pre(dictionary, before.xs)
    for p, places, pre, part in zip(before.passes, dictionary.layout.parts, pres, frozen.parts, strict=True):
        errors = [before.targets[i] - before.x_hats[i] for i in places.writes]
        silencing = part.b_enc if part.activation.starts_sparse_by == "b_enc" else 0.0
        rebuilt = (pre - silencing).relu()[:, p.dead] @ p.sae.W_dec[p.dead]
        total += (torch.cat(errors, -1) - rebuilt).square().mean()
    return total


def of_places(dictionary: Dictionary, targets: tuple[Tensor, ...], x_hats: tuple[Tensor, ...]) -> Tensor:
    if dictionary.layout.kind == "crosscoder":
        return (torch.cat(targets, -1) - torch.cat(x_hats, -1)).square().mean()
    return torch.stack([(t - y).square().mean() for t, y in zip(targets, x_hats, strict=True)]).sum()


def test_aux_of_a_clt_is_about_all_places_that_a_part_writes() -> None:
    """A dead latent's decoder to a later layer takes a gradient from the error there."""
    clt, xs, targets = random_dictionary("clt", VARIANTS["topk"]).train(), inputs(), inputs(seed=9)
    dead = torch.zeros(3, D_SAE, dtype=torch.bool)
    dead[0, :4] = True
    run(clt, xs, targets, dead).term("aux").backward()
    gradient = clt.parts[0].W_dec.grad
    ends = [0, 5, 8, 12]
    assert all(bool((gradient[:4, a:b] != 0).any()) for a, b in pairwise(ends))
    assert not gradient[4:].any()
