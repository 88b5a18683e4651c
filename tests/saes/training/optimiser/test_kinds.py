"""Every optimiser: what a step is, whatever lies how in memory; rows of norm 1; runs that are stopped and resumed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp import Site
from saes import SAE, TrainConfig, train
from saes.activations import ACTIVATIONS
from saes.training import loop, train_all
from saes.training.config import check
from saes.training.optimiser import adam
from saes.training.optimiser.kinds import ADAM_BETAS, ADAM_EPS, KINDS
from saes.training.optimiser.soap import Soap
from saes.training.optimiser.together import optimizer_for, take_step
from saes.training.plan import plan
from saes.training.stepping.state import TrainState
from tests.saes.places.kinds import PlacesSource
from tests.saes.sources import MemorySource, planted

pytestmark = pytest.mark.usefixtures("one_thread")
BESIDE_ADAM = [name for name in KINDS if name != "adam"]
LARGE = torch.tensor(1.0)
STEPS, STOPPED_AT = 24, 17
"""With checkpoints at 7, 14 and 21; SOAP turns its directions at 11 and 21."""


def gradients(number: int) -> list[Tensor]:
    """Of a matrix of five rows and three columns: formulas, so that others can have the same."""
    n = torch.arange(15, dtype=torch.float64).view(5, 3)
    return [torch.sin(n * (1 + n) / 7 + 0.9 * t) + 0.3 * torch.cos(n / 3) * t / number for t in range(number)]


def matrix() -> Tensor:
    return torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)


# pytorch-optimizer 4.1.0: SOAP(lr=0.01, betas=(0.95, 0.95), shampoo_beta=0.95, weight_decay=0.0, eps=1e-18,
# precondition_frequency=10, max_precondition_dim=4), so that it turns the three columns and not the five rows. Its
# directions are orthogonal to float32, from the tenth update on.
THEIR_SOAP = {
    2: [
        [-1.01275528018, -0.854446839779, -0.725688973376],
        [-0.576234117338, -0.422639304851, -0.270167046838],
        [-0.157115614388, -0.00834134310691, 0.148064635995],
        [0.272959005534, 0.431267445935, 0.560025312338],
        [0.727040994466, 0.854446839779, 1.01140325909],
    ],
    25: [
        [-1.10248543309, -0.879137111998, -0.727161425764],
        [-0.571906403405, -0.384904836911, -0.265584864549],
        [-0.139226081827, 0.106400011027, 0.243891333708],
        [0.292333627819, 0.531024067712, 0.585423806186],
        [0.783802512626, 0.877429004103, 1.01653584944],
    ],
}


def test_soap_takes_the_steps_of_another_library() -> None:
    weights = nn.Parameter(matrix())
    optimizer = Soap([weights], eps=1e-18)
    optimizer.param_groups[0]["lr"] = 0.01
    for number, gradient in enumerate(gradients(25), 1):
        weights.grad = gradient
        optimizer.step()
        if number == 1:  # which only gives the directions
            assert torch.equal(weights, matrix())
        if number in THEIR_SOAP:
            expected = torch.tensor(THEIR_SOAP[number], dtype=torch.float64)
            torch.testing.assert_close(weights.detach(), expected, rtol=0, atol=1e-11 if number == 2 else 1e-7)


def test_signum_moves_every_weight_by_the_rate_against_the_sign_of_the_mean() -> None:
    """The mean as a sum over all gradients so far."""
    weights = nn.Parameter(matrix())
    optimizer = optimizer_for([weights, nn.Parameter(torch.zeros(1))], "signum")
    optimizer.param_groups[0]["lr"] = 0.01
    expected, every = matrix(), gradients(12)
    for number in range(12):
        weights.grad = every[number].clone()
        take_step(optimizer, scale=LARGE)
        mean = sum(0.9 ** (number - i) * every[i] for i in range(number + 1))
        expected = expected - 0.01 * torch.as_tensor(mean).sign()
    torch.testing.assert_close(weights.detach(), expected, rtol=0, atol=1e-14)
    assert set(optimizer.state[weights]) == {"exp_avg"}


def test_muon_moves_all_directions_alike_and_as_far_as_adam_would() -> None:
    """Against the singular vectors: its iteration ends with singular values of about 1, and bfloat16."""
    weights = nn.Parameter(matrix().float())
    optimizer = optimizer_for([weights, nn.Parameter(torch.zeros(1))], "muon")
    optimizer.param_groups[0]["lr"] = 0.01
    gradient = gradients(3)[2].float()
    weights.grad = gradient.clone()
    take_step(optimizer, scale=LARGE)
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    moved = (matrix().float() - weights.detach()) / (0.01 * 0.2 * 5**0.5)
    along = left.T @ moved @ right.T
    assert along.diagonal().min() > 0.6
    assert along.diagonal().max() < 1.3
    assert (along - along.diagonal().diag()).abs().max() < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_how_a_matrix_lies_in_memory_does_not_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """W_enc has a latent's weights side by side; and a matrix is taken a few rows at a time."""
    monkeypatch.setattr(adam, "CHUNK", 2 * 3)
    ends = []
    for turned in (False, True):
        weights = nn.Parameter(matrix().float().T if turned else matrix().float())
        bias = nn.Parameter(torch.zeros(5))
        optimizer = optimizer_for([weights, bias], kind, columns=[weights] if turned else [])
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        for gradient in gradients(25):
            weights.grad = torch.empty_like(weights).copy_(gradient.T if turned else gradient)
            bias.grad = gradient[:, 0].float()
            take_step(optimizer, scale=LARGE)
        ends.append(((weights.T if turned else weights).detach(), bias.detach()))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=0, atol=1e-3 if kind == "muon" else 1e-6)
    assert (ends[0][0] - matrix()).abs().max() > 0.02
    alone = nn.Parameter(torch.zeros(5))
    other = torch.optim.Adam([alone], lr=0.01, betas=ADAM_BETAS, eps=ADAM_EPS)
    for gradient in gradients(25):
        alone.grad = gradient[:, 0].float()
        other.step()
    torch.testing.assert_close(ends[0][1], alone.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 3), (5, 1), (5, 3)])
def test_latents_get_norm_1_where_shape_and_strides_do_not_tell_which_axis_is_theirs(
    kind: str, shape: tuple[int, int]
) -> None:
    """One latent, or one dimension, lies in memory like its transpose. SOAP's directions are those of a latent."""
    latents, width = shape
    for turned in (False, True):
        start = matrix().float()[:latents, :width].contiguous()
        weights = nn.Parameter(start.T if turned else start)
        optimizer = optimizer_for([weights, nn.Parameter(torch.zeros(1))], kind, columns=[weights] if turned else [])
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        for gradient in gradients(3):
            part = gradient.float()[:latents, :width]
            weights.grad = torch.empty_like(weights).copy_(part.T if turned else part)
            take_step(optimizer, scale=LARGE, unit_rows=[weights])
        norms = weights.detach().norm(dim=0 if turned else 1)
        torch.testing.assert_close(norms, torch.ones(latents))
        if kind == "soap":
            assert optimizer.state[weights]["directions"].shape == (width, width)


@pytest.mark.parametrize("kind", BESIDE_ADAM)
def test_a_clipped_gradient_is_shorter(kind: str) -> None:
    """Twice the scale of half the gradient; the first moment, which all have, tells what came in."""
    means = []
    for factor, scale in ((1.0, 0.25), (0.25, 1.0)):
        weights = nn.Parameter(matrix())
        optimizer = optimizer_for([weights, nn.Parameter(torch.zeros(1))], kind)
        for gradient in gradients(3):
            weights.grad = factor * gradient
            take_step(optimizer, scale=torch.tensor(scale))
        (mean,) = (value for key, value in optimizer.state[weights].items() if key in ("exp_avg", "momentum_buffer"))
        means.append(mean)
    assert float(means[0].abs().max()) > 0
    torch.testing.assert_close(*means)


def config(out: Path, optimizer: str, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {"site": "s", "k": 4} | changes
    return TrainConfig(
        out=out,
        optimizer=optimizer,  # type: ignore[arg-type]
        d_sae=48,
        tokens=STEPS * 100,
        batch_size=100,
        checkpoint_every=7,
        log_every=1,
        **options,
    )


def source() -> MemorySource:
    return MemorySource(planted(500, d=16)[0])


@pytest.mark.parametrize("decoder", ["unit_norm", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_step_changes_the_norm_of_a_decoder_row(
    kind: str, decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each step its gradient has no part along the row, and after it the row has norm 1."""
    seen = []

    def looking(optimizer: Any, *, scale: Tensor, unit_rows: Any) -> None:
        (rows,) = unit_rows
        rows, gradient = (t if decoder == "unit_norm" else t.T for t in (rows, rows.grad))
        rows = rows.detach()
        along = ((gradient * rows).sum(-1).abs() / gradient.norm(dim=-1).clamp_min(1e-30)).max()
        before = rows.clone()
        take_step(optimizer, scale=scale, unit_rows=unit_rows)
        seen.append((float(along), float((rows.norm(dim=-1) - 1).abs().max()), float((rows - before).abs().max())))

    monkeypatch.setattr("saes.training.stepping.weights.take_step", looking)
    trained = train(config(tmp_path / "run", kind, decoder=decoder), source())
    assert len(seen) == STEPS
    assert max(along for along, _, _ in seen) < 1e-5
    assert max(off for _, off, _ in seen) < 1e-6
    assert max(moved for _, _, moved in seen) > 1e-3
    assert torch.allclose(trained.decoder_norms(), trained.decoder_norms()[:1], rtol=1e-5)


class Sized16(MemorySource):
    """A source that names its sites, as a plan wants it."""

    sites = (Site.parse("s"),)

    def width(self, _site: object) -> int:
        """See ``HasSites``."""
        return 16


class Stopped(Exception):
    """In the middle of a run."""


@pytest.mark.parametrize("what", ["topk", "jumprelu", "crosscoder"])
@pytest.mark.parametrize("kind", BESIDE_ADAM)
def test_stopped_and_resumed_is_bit_equal(
    kind: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = planted(500, d=16)[0]
    rows: Any = PlacesSource({"a": x, "b": x.flip(-1)}) if what == "crosscoder" else MemorySource(x)
    own: dict[str, Any] = {
        "topk": {},
        "jumprelu": {"activation": "jumprelu", "k": None, "l0": 4.0},
        "crosscoder": {"site": None, "kind": "crosscoder", "reads": ("a", "b")},
    }[what]
    straight = train_all([config(tmp_path / "straight", kind, **own)], rows)[0]
    step = loop.train_step

    def stopping(state: TrainState, *arguments: Any, **options: Any) -> None:
        if state.step == STOPPED_AT:
            raise Stopped
        step(state, *arguments, **options)

    stopped = config(tmp_path / "stopped", kind, **own)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        with pytest.raises(Stopped):
            train_all([stopped], rows)
    assert sorted(file.stem for file in (stopped.out / "checkpoints").iterdir()) == ["step000000007", "step000000014"]
    resumed = train_all([stopped], rows)[0]
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name
    log = [json.loads(line) for line in (stopped.out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, STEPS + 1))
    assert resumed.provenance["train"]["optimizer"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_its_default_rate_learns_what_was_planted(kind: str, tmp_path: Path) -> None:
    x = planted(2000, d=16, features=24, active=2)[0]
    long = replace(config(tmp_path / "run", kind), tokens=20_000, batch_size=100, checkpoint_every=1000, k=3)
    with torch.no_grad():
        sae = train(long, MemorySource(x))
        fvu = float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())
    assert fvu < 0.1


@pytest.mark.parametrize(
    ("steps", "batch_size", "factor"),
    [(1000, 512, 1), (1000, 2048, 1), (4000, 2048, 0.5), (1000, 4096, 2**0.4), (4000, 2**16, 4**0.4 / 2)],
)
def test_default_rate_of_longer_runs_and_larger_batches(
    steps: int, batch_size: int, factor: float, tmp_path: Path
) -> None:
    run = replace(config(tmp_path, "adam"), tokens=steps * batch_size, batch_size=batch_size)
    assert run.peak_lr(64) == pytest.approx(0.01 * factor)
    assert replace(run, optimizer="muon").peak_lr(64) == pytest.approx(0.0375 * min(1, (1000 / steps) ** 0.5))


def test_betas_and_eps_are_adams(tmp_path: Path) -> None:
    """They reach its steps, and make a run another one."""
    asked = {"adam_betas": (0.0, 0.9), "adam_eps": 1.0}
    run = config(tmp_path / "run", "adam", **asked)
    trained = train(run, source())
    default = train(config(tmp_path / "default", "adam"), source())
    assert (trained.W_enc - default.W_enc).abs().max() > 1e-3
    assert {key: trained.provenance["train"][key] for key in asked} == {"adam_betas": [0.0, 0.9], "adam_eps": 1.0}
    usual = train(config(tmp_path / "usual", "adam", adam_betas=(0.9, 0.999)), source())
    assert not {"optimizer", *asked} & set(usual.provenance["train"])  # as runs were described before
    assert default.provenance["train"]["adam_betas"] == list(ADAM_BETAS)
    with pytest.raises(ValueError, match="adam_eps"):
        train(replace(run, adam_eps=1e-18), source())


def test_the_optimiser_makes_a_run_another_one(tmp_path: Path) -> None:
    train(config(tmp_path / "run", "signum"), source())
    with pytest.raises(ValueError, match="optimizer"):
        train(config(tmp_path / "run", "muon"), source())


def test_what_a_description_leaves_out_is_said_as_what_it_stands_for(tmp_path: Path) -> None:
    """Runs of before there were betas do not say them; their own, 0.9 and 0.999, are left out now too."""
    before = config(tmp_path / "before", "adam", adam_betas=(0.9, 0.999))
    before = replace(before, tokens=100)
    train(before, source())
    with pytest.raises(ValueError, match=r"adam_betas: there \[0.9, 0.999\], asked \[0.8, 0.95\]\); choose"):
        train(replace(before, adam_betas=ADAM_BETAS), source())
    now = replace(before, out=tmp_path / "now", adam_betas=ADAM_BETAS)
    train(now, source())
    with pytest.raises(ValueError, match=r"adam_betas: there \[0.8, 0.95\], asked \[0.9, 0.999\]\); choose"):
        train(replace(now, adam_betas=(0.9, 0.999)), source())
    with pytest.raises(ValueError, match=r"optimizer: there 'adam', asked 'signum'"):
        train(replace(now, optimizer="signum"), source())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; it must be one of adam, signum, muon, soap"),
        ({"adam_betas": (0.9, 1.0)}, r"adam_betas are \(0.9, 1.0\); they must be two numbers from 0 to below 1"),
        ({"adam_betas": 0.9}, "adam_betas is 0.9; it must be a tuple: a number, a number: leave it out"),
        ({"adam_betas": ("a", "b")}, r"adam_betas is \('a', 'b'\); it must be a tuple"),
        ({"adam_betas": (0.9,)}, r"adam_betas is \(0.9,\); it must be a tuple"),
        ({"adam_eps": 0.0}, "adam_eps is 0.0; it must be above 0"),
        ({"optimizer": "muon", "latent_shards": 2}, "a step of muon takes all latents of a matrix together"),
        ({"optimizer": "soap", "latent_shards": 2}, "leave it at 1, or choose one of adam, signum"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    run = config(tmp_path / "run", "adam")
    for name, value in changes.items():  # some of which the types of a config already forbid while tests run
        object.__setattr__(run, name, value)
    with pytest.raises(ValueError, match=message):
        check(run)


def test_muon_needs_a_torch_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"muon needs torch 2.9 or later, and here is"):
        train(config(tmp_path / "run", "muon"), source())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["topk", "gated"])
def test_the_plan_counts_what_is_kept(kind: str, activation: str, tmp_path: Path) -> None:
    """Weights and gradients apart, of matrices; a vector is a small part, and counted like them."""
    its = config(tmp_path / "run", kind, activation=activation, k=4 if activation == "topk" else None)
    found = plan(its, Sized16(source().data))
    sae = SAE(16, 48, ACTIVATIONS[activation](**({"k": 4} if activation == "topk" else {})))
    optimizer = optimizer_for([p for p in sae.parameters() if p.requires_grad], kind, columns=[sae.W_enc])
    matrices = [p for p in sae.parameters() if p.ndim == 2]
    kept = sum(value.numel() for weights in matrices for key, value in optimizer.state[weights].items() if value.ndim)
    vectors = sum(p.numel() for p in sae.parameters() if p.ndim == 1)
    assert found.training_bytes == 4 * (2 * found.parameters + kept + KINDS[kind].moments * vectors)
    assert f"with gradients and {KINDS[kind].title}'s moments" in "\n".join(found.lines())
