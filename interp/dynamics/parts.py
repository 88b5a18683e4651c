"""What the report measures at every checkpoint, and which curve of it stands in the figure.

Monitors, massive activations and sinks share the passes over the text, induction and copying those over repeated
tokens. The others need passes of their own: sparsity looks several times, gains and codes read the bridge's modules,
kernels go backwards. What a model does not have is a quantity ``left_out`` of its line, with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from interp.checkpoints.curves import Measurement, Quantity, quantity
from interp.clamping.induction import repeated_rows
from interp.codes.token_codes import measurement as codes_measurement
from interp.dynamics.repeated import repeated_steps
from interp.gains.matrix_gains import measurement as gains_measurement
from interp.kernels.through_training import Reference
from interp.kernels.through_training import measurement as kernels_measurement
from interp.massive.attention import SinkStats, sink_steps
from interp.massive.stats import LayerStats, layer_stats_steps
from interp.metrics import Estimate
from interp.monitors.model_monitors import Monitors, monitor_steps
from interp.passes.together import Steps, together
from interp.sparsity.activation_sparsity import sparsity_at

CODE = 1
"""Raised when the same weights and tokens would give other figures than before."""
LEFT_OUT = "left_out"
CETT = 0.2
"""Error at which sparsity is compared over training, the same for every model, so that none has to be searched."""
NAMES = ("shared", "sparsity", "gains", "codes", "kernels")
"""Groups of measurements; each may be left out but the first."""
Which = Literal["top", "block", "last", "all"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve of the figure."""

    measurement: str
    """Name of the measurement that has it."""
    quantity: str
    """Name of the quantity in it."""
    which: Which
    """Which of its parts: the one that is largest at the end, the block of the induction head, the last block, or the
    only one."""
    title: str
    """What it is, in a few words."""


CURVES = (
    Curve(measurement="shared", quantity="induction", which="top", title="attention to what followed (induction)"),
    Curve(measurement="shared", quantity="previous_token", which="top", title="attention to the token before"),
    Curve(measurement="shared", quantity="copy_loss", which="all", title="loss on repeated tokens"),
    Curve(measurement="shared", quantity="copy_accuracy", which="all", title="repeated tokens predicted first"),
    Curve(measurement="shared", quantity="loss", which="all", title="loss on text"),
    Curve(measurement="shared", quantity="log_z", which="all", title="log Z"),
    Curve(measurement="shared", quantity="max_attention_logit", which="top", title="largest attention logit"),
    Curve(measurement="shared", quantity="attention_entropy", which="block", title="entropy of attention"),
    Curve(measurement="shared", quantity="rms_resid_post", which="last", title="size of the residual stream"),
    Curve(measurement="shared", quantity="massive_ratio", which="top", title="largest magnitude / median"),
    Curve(measurement="shared", quantity="sink_rate", which="all", title="heads whose sink is position 0"),
    Curve(measurement="sparsity", quantity="active", which="all", title="neurons that are needed"),
    Curve(measurement="gains", quantity="sigma1_out", which="block", title="top singular value of W_out"),
    Curve(measurement="gains", quantity="stable_rank_v", which="block", title="stable rank of the values"),
    Curve(measurement="gains", quantity="stable_rank_o", which="block", title="stable rank of attention's output"),
    Curve(measurement="codes", quantity="active", which="block", title="neurons with a positive input"),
    Curve(measurement="codes", quantity="distance_same_token", which="block", title="code depends on context"),
    Curve(measurement="kernels", quantity="kernel_distance", which="block", title="tangent kernel has moved"),
    Curve(measurement="kernels", quantity="rotation", which="block", title="weights have rotated"),
)


def measurements(
    *,
    leave_out: Sequence[str] = (),
    sequences: int = 16,
    half: int = 50,
    reference: Reference | None = None,
    positions: int = 32,
) -> tuple[Measurement, ...]:
    """For :func:`interp.checkpoints.sweep`: each says why, where it does not apply to a model, and stops no other.

    Args:
        leave_out: names of :data:`NAMES`, all but ``shared``.
        sequences: rows of repeated tokens.
        half: random tokens that each such row holds twice.
        reference: the checkpoint that kernels are compared with; without one they are left out.
        positions: outputs of the kernels.

    Raises:
        ValueError: another name.

    Example:
        >>> from interp.dynamics import measurements
        >>> [each.name for each in measurements(leave_out=["codes"])]
        ['shared', 'sparsity', 'gains']
    """
    if wrong := sorted(set(leave_out) - set(NAMES[1:])):
        raise ValueError(f"{', '.join(wrong)} cannot be left out; these can: {', '.join(NAMES[1:])}")
    found = [_shared(sequences, half), _sparsity(), gains_measurement(), codes_measurement()]
    if reference is not None:
        found.append(kernels_measurement(reference, positions=positions))
    return tuple(_or_reason(each) for each in found if each.name not in leave_out)


def _or_reason(what: Measurement) -> Measurement:
    """The same, with a reason in place of figures where a model does not have what it measures."""

    def run(model: Any, tokens: Int[Tensor, "sequences position"]) -> Mapping[str, Quantity]:
        try:
            return what.run(model, tokens)
        except ValueError as error:
            return {LEFT_OUT: _reason(str(error))}

    return Measurement(name=what.name, code=what.code, run=run, titles=what.titles, settings=what.settings)


def _reason(*reasons: str) -> Quantity:
    return Quantity(labels=reasons, values=(None,) * len(reasons), standard_errors=(None,) * len(reasons), n=0)


def _shared(sequences: int, half: int) -> Measurement:
    def run(model: Any, tokens: Int[Tensor, "sequences position"]) -> dict[str, Quantity]:
        longest = min(half, (int(model.cfg.n_ctx) - 1) // 2)
        twice = repeated_rows(int(model.cfg.d_vocab), sequences=sequences, half=longest)
        steps: list[Steps[Any]] = [
            monitor_steps(model, tokens, backward=False),
            layer_stats_steps(model, tokens),
            sink_steps(model, tokens, window=64),
            repeated_steps(model, twice),
        ]
        results, _ = together(model, steps)
        found: dict[str, Quantity] = {}
        reasons = []
        for result in results:
            if isinstance(result, ValueError):
                reasons.append(str(result))
            elif isinstance(result, Monitors):
                found |= result.quantities()
            elif isinstance(result, LayerStats):
                found["massive_ratio"] = quantity(result.ratio)
            elif isinstance(result, SinkStats):
                found["sink_rate"] = quantity([result.sink_rate()])
            else:
                found |= result
        return found | ({LEFT_OUT: _reason(*dict.fromkeys(reasons))} if reasons else {})

    titles = {curve.quantity: curve.title for curve in CURVES if curve.measurement == "shared"}
    return Measurement(
        name="shared", code=CODE, run=run, titles=titles, settings={"sequences": sequences, "half": half}
    )


def _sparsity() -> Measurement:
    def run(model: Any, tokens: Int[Tensor, "sequences position"]) -> dict[str, Quantity]:
        found = sparsity_at(model, tokens, cett=CETT)
        shares = {str(layer): _one_minus(each) for layer, each in enumerate(found.layers)}
        return {"active": quantity([_one_minus(found.share)]), "active_by_block": quantity(shares)}

    return Measurement(
        name="sparsity",
        code=CODE,
        run=run,
        titles={"active": "Share of neurons that are needed", "active_by_block": "The same by block"},
        settings={"cett": CETT},
    )


def _one_minus(share: Estimate) -> Estimate:
    return replace(share, value=1 - share.value)
