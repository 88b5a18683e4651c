"""Kernels against Jacobians written out, a linear model that stays linear, and lazy against rich training."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp.kernels import alignment, kernel_distance, measurement, movement, ntk, reference_of
from interp.models.loading import load_model
from tests.tiny_models import FAMILIES, VOCAB, as_bridge, tiny_model

TOKENS = torch.randint(1, VOCAB, (2, 10), generator=torch.Generator().manual_seed(0))


def jacobian(model: nn.Module, outputs: Callable[[], Tensor]) -> Tensor:
    rows = [torch.autograd.grad(v, list(model.parameters()), retain_graph=True) for v in outputs()]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).double()


def test_the_kernel_is_the_jacobian_times_itself() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).eval()
    x = torch.randn(7, 4)
    full = jacobian(model, lambda: model(x)[:, 0])
    found = ntk(model, lambda: model(x)[:, 0], groups={"in": ["0.weight", "0.bias"], "out": ["2.weight", "2.bias"]})
    assert torch.allclose(found.kernel, full @ full.T, atol=1e-5)
    assert torch.allclose(found.groups["in"], full[:, :30] @ full[:, :30].T, atol=1e-5)
    assert torch.allclose(found.outputs, model(x)[:, 0].detach().double())
    way = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    along = ntk(model, lambda: model(x)[:, 0], along=way).along
    assert along is not None
    assert torch.allclose(along, full @ torch.cat([v.flatten() for v in way.values()]).double(), atol=1e-5)


def test_a_linear_model_stays_its_linearisation() -> None:
    torch.manual_seed(1)
    model, start = (nn.Linear(5, 1).double().eval() for _ in range(2))
    start.load_state_dict(model.state_dict())
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    first = ntk(start, lambda: start(x)[:, 0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(x)[:, 0] - y).square().mean()
        loss.backward()
        optimizer.step()
        assert kernel_distance(ntk(model, lambda: model(x)[:, 0]).kernel, first.kernel).value == 0
        way = {n: p.detach() - dict(start.named_parameters())[n].detach() for n, p in model.named_parameters()}
        linear = ntk(start, lambda: start(x)[:, 0], along=way)
        assert linear.along is not None
        expected = (model(x)[:, 0] - y).square().mean().item()
        assert float((linear.outputs + linear.along - y).square().mean()) == pytest.approx(expected, abs=1e-10)


class Quadratic(nn.Module):
    """f = a/N Σ g(w·x), g(z) = z + ε z²/2, output at the start subtracted; the task of the paper, smaller."""

    def __init__(self, alpha: float, epsilon: float, x: Tensor) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(120, x.shape[1], generator=generator, dtype=torch.float64))
        self.alpha, self.epsilon, self.x = alpha, epsilon, x
        self.start = self.raw().detach()

    def raw(self) -> Tensor:
        z = self.x @ self.w.T
        return self.alpha / len(self.w) * (z + self.epsilon * z.square() / 2).sum(1)

    def forward(self) -> Tensor:
        return self.raw() - self.start


def trained(alpha: float, epsilon: float) -> tuple[float, float, float, float]:
    """Alignment at start and end, kernel distance, movement."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(100, 30, generator=generator, dtype=torch.float64) / 30**0.5
    beta = torch.randn(30, generator=generator, dtype=torch.float64)
    y = (x @ beta).square() / 2
    model = Quadratic(alpha, epsilon, x).eval()
    before = {"w": model.w.detach().clone()}
    first = ntk(model, model).kernel
    rate = 0.5 * len(model.w) / alpha**2
    for _ in range(1500):
        (gradient,) = torch.autograd.grad((model() - y).square().mean(), model.w)
        with torch.no_grad():
            model.w -= rate * gradient
    last = ntk(model, model).kernel
    relative = movement({"w": model.w}, before).relative
    return alignment(first, y), alignment(last, y), kernel_distance(last, first).value, relative


def test_rich_training_aligns_its_kernel_and_lazy_training_does_not() -> None:
    lazy, weak, strong = trained(10.0, 0.1), trained(1.0, 0.1), trained(1.0, 0.5)
    assert weak[1] > 2 * weak[0]
    assert strong[1] > weak[1]
    assert lazy[1] - lazy[0] < 0.2 * (weak[1] - weak[0])
    assert lazy[2] < weak[2] < strong[2] < 0.2
    assert lazy[3] < 0.5 * weak[3]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_projection_is_close_to_the_kernel(family: str) -> None:
    model = tiny_model(family)
    names = [name for name, p in model.named_parameters() if p.ndim == 2]

    def outputs() -> Tensor:
        return model(TOKENS).logits[:, ::3].log_softmax(-1)[..., 7].flatten()

    exact = ntk(model, outputs, groups={"all": names}).kernel
    near = ntk(model, outputs, groups={"all": names}, projection=16384).kernel
    assert float((near - exact).norm() / exact.norm()) < 0.05
    rough = [ntk(model, outputs, groups={"all": names}, projection=1024, seed=s).kernel for s in (0, 0, 1, 2, 3)]
    assert torch.equal(rough[0], rough[1])
    assert not torch.equal(rough[1], rough[2])
    scale = exact.diag()[:, None] * exact.diag() / 1024
    assert 0.3 < float(((torch.stack(rough[1:]) - exact).square() / scale).mean()) < 3


def test_alignment_and_distance_in_closed_form() -> None:
    torch.manual_seed(0)
    y, a = torch.randn(9), torch.randn(9, 3)
    k = a @ a.T
    h = torch.eye(9) - 1 / 9
    centred = h @ k @ h
    expected = float((y @ centred @ y) / (centred.norm() * (h @ y).square().sum()))
    assert alignment(k, y) == pytest.approx(expected, rel=1e-5)
    assert alignment(k + 5, y + 3) == pytest.approx(expected, rel=1e-4)
    order = torch.randperm(9)
    assert alignment(k[order][:, order], y[order]) == pytest.approx(expected, rel=1e-4)
    other = k + torch.diag(torch.rand(9))
    distance = kernel_distance(k, other)
    assert distance.value == pytest.approx(1 - float((k * other).sum() / k.norm() / other.norm()), rel=1e-4)
    assert distance.n == 9
    left = []
    for i in range(9):
        kept = [j for j in range(9) if j != i]
        left.append(kernel_distance(k[kept][:, kept], other[kept][:, kept]).value)
    each = torch.tensor(left, dtype=torch.float64)
    assert distance.standard_error == pytest.approx(float((each - each.mean()).square().sum() * 8 / 9) ** 0.5, rel=1e-4)


def test_a_language_model_against_its_start() -> None:
    start, later, last = (load_model("embedded", revision=f"step{s}") for s in (0, 256, 5792))
    tokens = torch.randint(1, 4000, (2, 16), generator=torch.Generator().manual_seed(0))
    what = measurement(reference_of(start), positions=6)
    same, middle, end = (what.run(model, tokens) for model in (start, later, last))
    assert same["kernel_distance"].values == (0.0,) * 5
    assert same["movement"].values == (0.0,) * 4
    assert same["loss"].values[0] == pytest.approx(same["loss"].values[1])
    for name in ("movement", "rotation"):
        pairs = zip(middle[name].values, end[name].values, strict=True)
        assert all(a is not None and b is not None and 0 < a < b for a, b in pairs)
    assert end["kernel_distance"].labels == ("0", "1", "2", "3", "all")
    assert what.settings["reference"] != measurement(reference_of(last)).settings["reference"]
    assert all(p.grad is None for p in start.parameters())


def test_small_steps_are_linear() -> None:
    """Moved a little, the linearised loss is the loss to second order."""
    start, moved = as_bridge(tiny_model("gpt_neox")), as_bridge(tiny_model("gpt_neox"))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in moved.original_model.parameters():
            parameter += 1e-5 * torch.randn_like(parameter)
    loss = measurement(reference_of(start), positions=8).run(moved, TOKENS)["loss"].values
    base = measurement(reference_of(start), positions=8).run(start, TOKENS)["loss"].values
    assert loss[0] is not None
    assert loss[1] is not None
    assert base[0] is not None
    assert abs(loss[0] - loss[1]) < 0.1 * abs(loss[0] - base[0])


def test_what_cannot_be_taken_is_refused() -> None:
    model: Any = nn.Linear(2, 1).eval()
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match="no parameters other"):
        ntk(model, lambda: model(x)[:, 0], groups={"a": ["other"]})
    with pytest.raises(ValueError, match="one group only"):
        ntk(model, lambda: model(x)[:, 0], groups={"a": ["weight"], "b": ["weight"]})
    with pytest.raises(ValueError, match="must be a vector"):
        ntk(model, lambda: model(x))
    with pytest.raises(ValueError, match="must be a vector"):
        ntk(model, lambda: model(x)[:, 0].detach())
    with pytest.raises(ValueError, match="projection=0"):
        ntk(model, lambda: model(x)[:, 0], projection=0)
    with pytest.raises(ValueError, match=r"model\.eval"):
        ntk(model.train(), lambda: model(x)[:, 0])
    with pytest.raises(ValueError, match="one for each row"):
        alignment(torch.eye(3), torch.ones(2))
    with pytest.raises(ValueError, match="are constant"):
        alignment(torch.eye(3), torch.ones(3))
    with pytest.raises(ValueError, match="same inputs"):
        kernel_distance(torch.eye(3), torch.eye(4))
    with pytest.raises(ValueError, match="kernel of zeros"):
        kernel_distance(torch.eye(3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="two inputs or more"):
        kernel_distance(torch.eye(1), torch.eye(1))
    with pytest.raises(ValueError, match="names or shapes"):
        movement({"a": x}, {"b": x})
    with pytest.raises(ValueError, match="three or more"):
        measurement(reference_of(as_bridge(tiny_model("gpt2"))), positions=2)
