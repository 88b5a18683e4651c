"""AtP*: where plain attribution patching sees nothing, and two ways of seeing it."""

import pytest
import torch

import circuits
from circuits.anatomy.nodes import node_hooks
from circuits.runs.pair import contrast, open_session
from tests.circuits.pairs import model_of, random_task
from tests.tiny_models import LAYERS


def saturated(family: str):
    """Queries and keys so large that the softmax is one-hot, and has no gradient."""
    model = model_of(family, dtype=torch.float64)
    for block in model.transformer.h:
        block.attn.c_attn.weight.data[:, :64] *= 1000
    return model


def last_layer_exact(model, task, name: str) -> torch.Tensor:
    """Effects of queries or keys in the last layer with everything behind its heads linearised at the base run: the
    heads are run again with each query or key patched alone, and multiplied by the gradient there."""
    session = open_session(model, task)
    z, hooks = node_hooks(session.anatomy, "z")[-1], node_hooks(session.anatomy, name)[-1]
    found = contrast(session, [z, hooks], gradients=True)
    slope = session.runner.gradients(found.base_metric.sum(), found.base, [z.change])[z.change].detach()
    difference = found.difference(hooks)
    effects = torch.zeros(difference.shape[:-1], dtype=torch.float64)
    for position in range(difference.shape[1]):
        for head in range(difference.shape[2]):
            only = torch.zeros_like(difference)
            only[:, position, head] = difference[:, position, head]
            patched = session.runner.forward(task.base, read=[z.value], add={hooks.change: only})
            moved = patched.value(z.value) - found.base.value(z.value).detach()
            effects[:, position, head] = (moved * slope).sum((1, 2, 3))
    return effects


@pytest.mark.parametrize("name", ["q", "k"])
def test_the_qk_fix_recomputes_attention(name: str) -> None:
    model, task = saturated("gpt2"), random_task()
    star = circuits.attribute(model, task, nodes=name, method="atp*")
    # The last layer's effects pass through nothing that GradDrop could cut but itself: of LAYERS cuts, all but its own
    # leave the gradient as it is, and they are averaged over LAYERS - 1.
    torch.testing.assert_close(star.per_prompt[:, -1], last_layer_exact(model, task, name).abs(), rtol=1e-6, atol=1e-9)
    plain = circuits.attribute(model, task, nodes=name, method="atp").values[-1].abs().max()
    assert star.values[-1].max() > 20 * plain


def test_grouped_keys_are_scored_by_group() -> None:
    model, task = model_of("llama", dtype=torch.float64), random_task()
    for name in ("q", "k"):
        star = circuits.attribute(model, task, nodes=name, method="atp*")
        expected = last_layer_exact(model, task, name).abs()
        torch.testing.assert_close(star.per_prompt[:, -1], expected, rtol=1e-4, atol=1e-6)


def test_graddrop_sees_paths_that_cancel() -> None:
    """The last MLP takes back what comes to it, so that the direct path and the one through it cancel. Patching the
    attention before it has no effect and no gradient; with the MLP cut it has."""
    model, task = model_of("gpt2", dtype=torch.float64), random_task()
    last = model.transformer.h[-1]
    last.ln_2.forward = lambda x: x
    last.mlp.forward = lambda x: torch.cat([-0.99 * x[..., :16], 0 * x[..., 16:]], -1)
    model.transformer.h[-2].attn.register_forward_hook(halves)
    last.attn.register_forward_hook(halves)
    model.transformer.ln_f.forward = lambda x: x
    # Of the layer before, whose output the last MLP takes back too: the last layer's own cut leaves nothing of its own.
    plain, star = (
        circuits.attribute(model, task, nodes="attn_out", method=method).per_prompt[:, -2].abs().sum()
        for method in ("atp", "atp*")
    )
    assert star > 3 * plain


def halves(_module, _args, output):
    """Only the first half of the dimensions, which the last MLP takes back."""
    kept = output[0].clone()
    kept[..., 16:] = 0
    return (kept, *output[1:])


def test_without_cancellation_graddrop_is_the_mean_of_absolute_effects() -> None:
    """By hand: gradients with one layer's output detached, averaged over LAYERS - 1."""
    model, task = model_of("gpt2", dtype=torch.float64), random_task()
    star = circuits.attribute(model, task, nodes="mlp_out", method="atp*").per_prompt
    total = torch.zeros_like(star)
    for layer in range(LAYERS):
        block = model.transformer.h[layer]
        handles = [m.register_forward_hook(detach) for m in (block.attn, block.mlp)]
        total += circuits.attribute(model, task, nodes="mlp_out", method="atp").per_prompt.abs() * torch.tensor(
            [float(other != layer) for other in range(LAYERS)]
        ).view(1, LAYERS, 1)
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(star, total / (LAYERS - 1))


def detach(_module, _args, output):
    return (output[0].detach(), *output[1:]) if isinstance(output, tuple) else output.detach()
