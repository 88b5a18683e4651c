"""CPR and CMD by the recipe of the MIB benchmark's circuit track (Mueller et al. 2025).

Of ``N`` edges, with the keys and values of every query head apart, ``int(share * N)`` are kept at each share of
``FRACTIONS``; those on no path then go. Faithfulness is ``(m(C) - m(nothing)) / (m(model) - m(nothing))`` with corrupt
outputs in place of what is cut. For CPR, the area under it, edges are ranked by signed score, so that those that work
against the answer come last; for CMD, the area under its distance from 1, by absolute score. Areas are trapezoids over
the shares asked for, from 0.001 on. (``Evaluator.curve`` rounds, ranks by absolute score in both, and counts shared
keys once.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.faithfulness import FRACTIONS, Evaluator
from circuits.scores.uncertainty import jackknife, mean_estimate
from interp.metrics import Estimate


@dataclass(frozen=True, kw_only=True)
class MIBAreas:
    """Both figures, each with the standard error of a jackknife over prompts (NaN for one)."""

    cpr: Estimate
    """Integrated circuit performance ratio: higher is better, and above 1 is possible."""
    cmd: Estimate
    """Integrated circuit-model distance: lower is better."""
    fractions: tuple[float, ...]
    """Share of the model's edges that is kept, at each point of the curves."""
    by_signed_score: tuple[Estimate, ...]
    """Faithfulness at each fraction of the circuits of CPR."""
    by_absolute_score: tuple[Estimate, ...]
    """Faithfulness at each fraction of the circuits of CMD."""
    edges: int
    """How many edges the whole model has."""

    @property
    def n(self) -> int:
        """Prompts."""
        return self.cpr.n

    @property
    def cpr_standard_error(self) -> float:
        """Of ``cpr``."""
        return self.cpr.standard_error

    @property
    def cmd_standard_error(self) -> float:
        """Of ``cmd``."""
        return self.cmd.standard_error


def mib_areas(evaluator: Evaluator, circuit: Circuit) -> MIBAreas:
    """CPR and CMD of the scores of all edges of a model, ``Circuit.from_edges(...)`` or :func:`read_mib`.

    Raises:
        ValueError: what the benchmark's recipe does not cover, or differs in: another ablation than ``resample``; keys
            shared by heads (see ``ungroup``); norms behind attention (Gemma), through which it
            takes sums of heads and we take each on its own; a circuit without some of the edges.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 4)
        >>> whole = circuits.Circuit.from_edges(circuits.attribute_edges(model, task, method="eap"))
        >>> areas = circuits.mib.mib_areas(circuits.Evaluator(model, task), whole)
        >>> areas.edges, areas.fractions[-1], round(areas.by_signed_score[-1].value, 4)  # all edges are the model
        (297, 1.0, 1.0)
        >>> 0 < areas.cmd.value < 0.2
        True
    """
    if reason := unlike_mib(evaluator):
        raise ValueError(reason)
    wiring = evaluator.wiring
    edges = {(wiring.writers[u].name, wiring.readers[v].name) for u, v in wiring.mask.nonzero().tolist()}
    if missing := edges - set(circuit.edges):
        raise ValueError(
            f"the recipe ranks all {len(edges)} edges of the model; {len(missing)} have no score here, such as"
            f" {min(missing)}. Pass the whole circuit, not a pruned one"
        )
    shares = torch.tensor(FRACTIONS, dtype=torch.float64)
    sizes = [int(share * len(edges)) for share in FRACTIONS]
    signed, absolute = (
        evaluator.scaled(torch.stack([evaluator.cut(circuit.prune(size=size, signed=by_sign)) for size in sizes]))
        for by_sign in (True, False)
    )

    def under(values: Tensor) -> float:
        return float(torch.trapezoid(values, shares))

    def from_one(values: Tensor) -> float:
        return under((1 - values).abs())

    return MIBAreas(
        cpr=jackknife(signed, under),
        cmd=jackknife(absolute, from_one),
        fractions=FRACTIONS,
        by_signed_score=tuple(mean_estimate(row) for row in signed),
        by_absolute_score=tuple(mean_estimate(row) for row in absolute),
        edges=len(edges),
    )


def unlike_mib(evaluator: Evaluator) -> str | None:
    """Why the recipe cannot be followed with this model and ablation; None where it can."""
    anatomy = evaluator.wiring.anatomy
    if evaluator.ablation != "resample":
        return f"MIB puts corrupt outputs in place of what is cut: ablation='resample', not {evaluator.ablation!r}"
    if anatomy.heads != anatomy.key_value_heads:
        return (
            f"{anatomy.heads} heads of this model share {anatomy.key_value_heads} keys and values, which MIB counts for"
            " each head: score and evaluate circuits.mib.ungroup(model)"
        )
    if any(block.attention_post_norm is not None for block in anatomy.blocks):
        return "MIB takes sums of heads through the norm behind attention, which no test here compares; use .curve()"
    return None
