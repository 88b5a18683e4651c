"""Codes with known repetitions, signs recomputed from the original modules, probes that know all or nothing."""

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.codes import class_distances, codes, hamming, measurement, pack, probe_codes, redundancy
from tests.tiny_models import FAMILIES, LAYERS, VOCAB, as_bridge, tiny_model

TOKENS = torch.randint(1, VOCAB, (3, 12), generator=torch.Generator().manual_seed(2))


def hidden(width: int) -> Tensor:
    """One random ReLU layer with bias, of 4,400 inputs of which 400 are copies."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 32, generator=generator)
    x = torch.cat([x, x[:400]])
    return (x @ torch.randn(32, width, generator=generator) + torch.randn(width, generator=generator)).relu()


def test_copies_are_found_and_narrow_layers_have_few_codes() -> None:
    found = {width: redundancy(pack(hidden(width))).value for width in (1, 2, 4, 8, 16, 64, 256)}
    assert found[64] == found[256] == pytest.approx(400 / 4400)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert found[1] >= 1 - 2 / 4400
    assert found[8] > 0.9
    assert 0.1 < found[16] < 0.5


def test_the_order_of_neurons_and_inputs_changes_nothing() -> None:
    a = hidden(12)
    order, rows = torch.randperm(12), torch.randperm(len(a))
    assert redundancy(pack(a[:, order])).value == redundancy(pack(a)).value == redundancy(pack(a[rows])).value
    assert np.array_equal(hamming(pack(a[:50, order]), pack(a[:9, order])), hamming(pack(a[:50]), pack(a[:9])))


def test_distances_are_those_of_the_signs() -> None:
    a = torch.randn(30, 21, generator=torch.Generator().manual_seed(0))
    bits = a > 0
    expected = (bits[:, None] != bits[None]).sum(-1)
    assert np.array_equal(hamming(pack(a), pack(a)), expected.numpy())
    classes = torch.arange(30) % 3
    found = class_distances(pack(a), classes, neurons=21)
    upper = torch.ones(30, 30).triu(1).bool()
    same = (classes[:, None] == classes) & upper
    assert found.within.value == pytest.approx(float(expected[same].float().mean() / 21), rel=1e-5)
    assert found.between.value == pytest.approx(float(expected[upper & ~same].float().mean() / 21), rel=1e-5)
    assert found.within.n + found.between.n == 435
    with pytest.raises(ValueError, match="need both"):
        class_distances(pack(a), torch.arange(30), neurons=21)
    with pytest.raises(ValueError, match="one for each"):
        class_distances(pack(a), classes[:2], neurons=21)


def test_drawn_pairs_have_the_distances_of_all() -> None:
    torch.manual_seed(0)
    classes = torch.arange(1500) % 5
    a = torch.randn(5, 40)[classes] + 0.7 * torch.randn(1500, 40)
    drawn, few = (class_distances(pack(a[:n]), classes[:n], neurons=40) for n in (1500, 600))
    assert drawn.within.value == pytest.approx(few.within.value, abs=0.01)
    assert drawn.between.value == pytest.approx(few.between.value, abs=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_signs_are_those_of_what_enters_the_activation(family: str) -> None:
    hf_model = tiny_model(family)
    blocks = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}.get(family, "model.layers")
    path = {"gpt2": "mlp.c_fc", "gpt_neox": "mlp.dense_h_to_4h"}.get(family, "mlp.gate_proj")
    entering: list[Tensor] = []
    for layer in range(LAYERS):
        module = hf_model.get_submodule(f"{blocks}.{layer}.{path}")
        module.register_forward_hook(lambda _m, _a, out: entering.append(out.detach()))
    hf_model(TOKENS)
    model = as_bridge(tiny_model(family))
    found = codes(model, TOKENS, batch=2)
    for layer in range(LAYERS):
        assert np.array_equal(found.layers[layer], pack(entering[layer].flatten(0, 1)))
        assert found.neurons[layer] == entering[layer].shape[-1]
    assert (found.repeated, found.regions) == (0, False)
    assert torch.equal(found.tokens, TOKENS.flatten())
    only = codes(model, TOKENS, layers=[2])
    assert list(only.layers) == [2]
    assert np.array_equal(only.all_layers, found.layers[2])
    assert not any(
        m._forward_hooks for block in model.blocks for n, m in block.mlp._modules.items() if n in ("in", "gate")
    )


def test_prefixes_that_occurred_before_are_left_out() -> None:
    rows = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 4], [2, 2, 3, 4], [1, 2, 3, 4]])
    found = codes(as_bridge(tiny_model("gpt2")), rows)
    assert found.repeated == 6
    assert list(zip(found.sequence.tolist(), found.position.tolist(), strict=True)) == [
        *((0, i) for i in range(4)),
        *((1, i) for i in (2, 3)),
        *((2, i) for i in range(4)),
    ]
    assert found.tokens.tolist() == [1, 2, 3, 4, 5, 4, 2, 2, 3, 4]


def test_probes_know_planted_classes_and_nothing_of_shuffled_ones() -> None:
    torch.manual_seed(0)
    y = torch.arange(300) % 3
    x = pack(torch.randn(3, 64)[y] * 2 + torch.randn(300, 64))
    known = probe_codes(x[:200], y[:200], x[200:], y[200:])
    assert min(known.clusters.value, known.neighbours.value, known.linear.value) > 0.95
    shuffled = y[torch.randperm(300)]
    nothing = probe_codes(x[:200], shuffled[:200], x[200:], shuffled[200:])
    for estimate in (nothing.clusters, nothing.neighbours, nothing.linear):
        assert abs(estimate.value - 1 / 3) < 4 * estimate.standard_error
        assert estimate.n == 100
    assert known.chance == pytest.approx(0.34)


def test_over_training() -> None:
    from interp.models.loading import load_model

    rows = torch.randint(1, 4000, (2, 40), generator=torch.Generator().manual_seed(0))
    rows[:, 20:30] = rows[:, :10]
    found = measurement().run(load_model("embedded"), rows)
    assert found["redundancy"].labels == ("0", "1", "2", "3", "all")
    same, other = found["distance_same_token"].values, found["distance_other_token"].values
    assert all(a is not None and b is not None and a < b for a, b in zip(same, other, strict=True))


def test_nonsense_is_refused() -> None:
    model = as_bridge(tiny_model("gpt2"))
    x, y = pack(torch.randn(12, 8)), torch.arange(12) % 2
    with pytest.raises(ValueError, match="which has 0 to 2"):
        codes(model, TOKENS, layers=[3])
    with pytest.raises(ValueError, match="one or more of each"):
        codes(model, TOKENS[:, :0])
    with pytest.raises(ValueError, match="no NaN"):
        pack(torch.full((1, 1), torch.nan))
    with pytest.raises(ValueError, match="no codes"):
        redundancy(x[:0])
    with pytest.raises(ValueError, match="one for each"):
        probe_codes(x, y[:3], x, y)
    with pytest.raises(ValueError, match="nine or more"):
        probe_codes(x[:8], y[:8], x, y)
    with pytest.raises(ValueError, match="of all test classes"):
        probe_codes(x, y, x, y + 1)
    vars(model)["_weights_processed"] = True
    with pytest.raises(ValueError, match="processed weights"):
        codes(model, TOKENS)
