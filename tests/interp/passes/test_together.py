"""Measurements that share forward passes find what each finds alone, in as many passes as the rows take."""

from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.massive.attention import attention_sinks, sink_steps
from interp.massive.stats import layer_stats, layer_stats_steps
from interp.monitors.model_monitors import measure, monitor_steps
from interp.passes.together import Ask, Steps, alone, together
from interp.sites.site import Site

TOKENS = torch.randint(0, 4000, (3, 80), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load_model("embedded")


def means(rows: Tensor, layers: tuple[int, ...], *, batch: int = 1) -> Steps[list[float]]:
    """The mean of what comes after some blocks, a batch at a time."""
    found = []
    sites = tuple(Site("resid_post", layer) for layer in layers)
    for some in rows.split(batch):
        got = yield Ask(rows=some, sites=sites, reduce=lambda site, value: value.mean() + (site.layer or 0))
        found += [float(got[site]) for site in sites]
    return found


def test_equal_rows_run_once(model: Any) -> None:
    monitors, stats, sinks = (
        monitor_steps(model, TOKENS, backward=False),
        layer_stats_steps(model, TOKENS),
        sink_steps(model, TOKENS, window=64),
    )
    (found, layers, attention), passes = together(model, [monitors, stats, sinks])
    assert passes == 3
    single = measure(model, TOKENS, backward=False)
    assert torch.equal(found.largest, single.largest)
    assert torch.equal(found.log_z, single.log_z)
    assert found.loss == single.loss
    by_gradients = measure(model, TOKENS)
    torch.testing.assert_close(found.log_z, by_gradients.log_z)
    assert found.loss.value == pytest.approx(by_gradients.loss.value)
    torch.testing.assert_close(layers.values, layer_stats(model, TOKENS).values)
    assert torch.equal(layers.positions, layer_stats(model, TOKENS).positions)
    torch.testing.assert_close(attention.importance, attention_sinks(model, TOKENS).importance, atol=1e-5, rtol=1e-4)


def test_other_rows_and_other_batches_have_passes_of_their_own(model: Any) -> None:
    def all_three() -> list[Steps[list[float]]]:
        return [means(TOKENS, (0, 2)), means(TOKENS[:1], (2, 3)), means(TOKENS, (1,), batch=3)]

    both, passes = together(model, all_three())
    assert passes == 4
    for found, steps in zip(both, all_three(), strict=True):
        assert found == pytest.approx(alone(model, steps), rel=1e-4)


def test_one_that_fails_leaves_the_others_alone(model: Any) -> None:
    def fails() -> Steps[list[float]]:
        yield Ask(rows=TOKENS[:1], sites=(Site("resid_post", 0),), reduce=lambda _site, value: value[:0])
        raise ValueError("nothing to see")

    (good, bad), passes = together(model, [means(TOKENS[:1], (0,)), fails()])
    assert passes == 1
    assert isinstance(bad, ValueError)
    assert good == alone(model, means(TOKENS[:1], (0,)))
    with pytest.raises(ValueError, match="nothing to see"):
        alone(model, fails())
