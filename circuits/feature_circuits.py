"""Circuits of sparse-autoencoder features (Marks et al. 2024, "Sparse Feature Circuits").

At every site with an SAE the activation is the sum of its features' decoder directions and of an error: ``x = W_dec f +
b_dec + e``. Features and errors are the nodes. Nothing has to be spliced into the model to score them: with gradients
passed straight through (the features' decoder sees the gradient at ``x``, and so does the error, and what lies upstream
sees it too), the gradient of a feature is ``W_dec . (d metric / d x)``, and the effects of all features and the error
of a site sum to the effect of ``x``. That holds for attribution patching, for relevance, and for integrated gradients
with features and error interpolated together.

Evaluation splices for real: features and errors outside the circuit are set to their mean over the corrupt prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuits.integrated import mean_gradient
from circuits.nodes import Places, Spot, places
from circuits.rules import rules_of_method
from circuits.running import Cost, Start
from circuits.session import Contrast, Session, contrast, open_session
from circuits.task import Task
from interp.model_source import source_of
from interp.sites import Site, is_bridge
from saes.sae import SAE

METHODS = ("atp", "relp", "ig", "patching")
_FAMILIES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureScores:
    """Effects of features and errors at every site; ``denoise`` or ``noise`` as for nodes."""

    features: Mapping[str, Tensor]
    """By site, ``[position, d_sae]``: mean over prompts."""
    errors: Mapping[str, Tensor]
    """By site, ``[position]``."""
    sites: Mapping[str, Tensor]
    """By site, ``[position]``: the effect of the whole activation, which features and error sum to (not for
    ``patching``)."""
    method: str
    rules: tuple[str, ...] | None
    direction: str
    cost: Cost
    n: int

    def top(self, k: int) -> list[tuple[str, int, int | None, float]]:
        """The ``k`` strongest as (site, position, feature or None for the error, score)."""
        found: list[tuple[str, int, int | None, float]] = []
        for site, values in self.features.items():
            flat = values.flatten()
            for i in flat.abs().topk(min(k, flat.numel())).indices.tolist():
                found.append((site, i // values.shape[1], i % values.shape[1], float(flat[i])))
            found += [(site, p, None, float(e)) for p, e in enumerate(self.errors[site])]
        return sorted(found, key=lambda node: -abs(node[3]))[:k]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureCircuit:
    """Which features and errors are in: masks by site, ``[position, d_sae]`` and ``[position]``."""

    features: Mapping[str, Tensor]
    errors: Mapping[str, Tensor]

    @classmethod
    def above(cls, scores: FeatureScores, threshold: float) -> "FeatureCircuit":
        """Nodes whose absolute (mean signed) score is at least ``threshold``."""
        if not threshold >= 0:
            raise ValueError(f"threshold is {threshold}; it must be 0 or more")
        return cls(
            features={site: values.abs() >= threshold for site, values in scores.features.items()},
            errors={site: values.abs() >= threshold for site, values in scores.errors.items()},
        )

    @property
    def size(self) -> int:
        """Features and errors, counted by position."""
        return sum(int(mask.sum()) for masks in (self.features, self.errors) for mask in masks.values())

    def complement(self) -> "FeatureCircuit":
        """Everything else."""
        return FeatureCircuit(
            features={site: ~mask for site, mask in self.features.items()},
            errors={site: ~mask for site, mask in self.errors.items()},
        )


@dataclass(frozen=True, kw_only=True)
class FeatureFaithfulness:
    """Of a feature circuit, as :class:`circuits.faithfulness.Faithfulness`."""

    faithfulness: float
    standard_error: float
    completeness: float
    size: int
    n: int


def attribute_features(
    model: Any,
    task: Task,
    saes: Sequence[SAE],
    *,
    method: str = "relp",
    rules: str | Iterable[str] | None = None,
    steps: int = 10,
    at_least: float = 0.0,
) -> FeatureScores:
    """Score every feature and error of SAEs.

    Args:
        saes: One or more, each with its ``site``, such as ``blocks.3.hook_resid_post``.
        method: ``atp`` or ``relp`` (two forwards, one backward), ``ig`` (``steps`` forwards and backwards for each
            site), or ``patching``: exact, one forward for each feature and position that differs between the runs.
        rules: For ``relp``, as for :func:`circuits.attribute`.
        at_least: ``patching`` leaves out features whose largest change of activation is below this.

    Raises:
        ValueError: an SAE without a site, of another width, of another model, or two at one site; unknown method.
    """
    in_force = rules_of_method(method, rules, methods=METHODS, default="paper", steps=steps, what=" for features")
    session = open_session(model, task)
    spliced = splices(model, session, saes)
    spots = [splice.place for splice in spliced]
    gradient = method in ("atp", "relp")
    found = contrast(session, [*spots, *session.residual], gradients=gradient, rules=in_force)
    if gradient:
        slopes = session.runner.gradients(found.base_metric.sum(), found.base, [place.change for place in spots])
    features, errors, sites = {}, {}, {}
    for splice in spliced:
        change, error = splice.changes(found)
        if method == "patching":
            features[splice.name], errors[splice.name], sites[splice.name] = _exact(
                session, found, splice, change, error, at_least
            )
            continue
        if gradient:
            slope = slopes[splice.place.change].detach()
        else:
            start = Start(splice.layer, found.base.value(session.residual[splice.layer].value))
            difference = found.difference(splice.place)
            slope = mean_gradient(session, found, splice.place, difference, steps=steps, start=start)
        features[splice.name] = (change * (slope @ splice.sae.W_dec.detach().T)).double().mean(0).cpu()
        errors[splice.name] = (error * slope).double().sum(-1).mean(0).cpu()
        sites[splice.name] = (found.difference(splice.place) * slope).double().sum(-1).mean(0).cpu()
    return FeatureScores(
        features=features,
        errors=errors,
        sites=sites,
        method=method,
        rules=None if in_force is None else tuple(sorted(in_force)),
        direction=task.direction,
        cost=session.runner.cost,
        n=len(task),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Splice:
    """An SAE at its place."""

    name: str
    layer: int
    sae: SAE
    place: Places

    @torch.no_grad()
    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[n, position, d_sae]`` and error ``[n, position, d]`` of an activation."""
        latents = self.sae.encode(x)
        return latents.to_dense(), x - self.sae.decode(latents, x)

    def changes(self, found: Contrast) -> tuple[Tensor, Tensor]:
        """How features and error of the source run differ from the base run's."""
        source, base = (self.parts(run.value(self.place.value).detach()) for run in (found.source, found.base))
        return source[0] - base[0], source[1] - base[1]


def splices(model: Any, session: Session, saes: Sequence[SAE]) -> list[Splice]:
    """Check SAEs against the model and find their places; raises as :func:`attribute_features`."""
    if not saes:
        raise ValueError("saes is empty; pass at least one SAE with its site")
    found: dict[str, Splice] = {}
    for number, sae in enumerate(saes):
        if sae.site is None:
            raise ValueError(f"SAE {number} does not say its site; set sae.site, such as 'blocks.3.hook_resid_post'")
        site = Site.parse(sae.site)
        if site.kind not in _FAMILIES or site.layer is None:
            raise ValueError(f"SAE {number} is of {site}; features are traced at {', '.join(_FAMILIES)}")
        if site.layer >= len(session.anatomy.blocks):
            raise ValueError(f"SAE {number} is of {site}, but this model has {len(session.anatomy.blocks)} layers")
        width = len(next(session.anatomy.blocks[0].norm1.parameters()))
        trained_on = sae.provenance.get("source", {}).get("model")
        own = source_of(model).name if is_bridge(model) else None
        if sae.d_in != width or (own and trained_on and own != trained_on):
            raise ValueError(
                f"SAE {number} is of another model: it was trained on {trained_on or 'an unnamed one'} with"
                f" {sae.d_in} dimensions, this is {own or 'one'} with {width}. Load that model, or another SAE"
            )
        if sae.d_out != sae.d_in or sae.skip:
            raise ValueError(f"SAE {number} is a transcoder, which does not take an activation apart; pass an SAE")
        if str(site) in found:
            raise ValueError(f"two SAEs are of {site}; pass one for each site")
        place = places(session.anatomy, site.kind)[site.layer]
        found[str(site)] = Splice(name=str(site), layer=site.layer, sae=sae, place=place)
    return sorted(found.values(), key=lambda splice: (splice.layer, _FAMILIES.index(Site.parse(splice.name).kind)))


def _exact(
    session: Session, found: Contrast, splice: Splice, change: Tensor, error: Tensor, at_least: float
) -> tuple[Tensor, Tensor, Tensor]:
    tokens = session.task.base
    decoder = splice.sae.W_dec.detach()

    def effect(delta: Tensor) -> float:
        passed = session.runner.forward(tokens, add={splice.place.change: delta})
        return float((found.measure(passed.logits) - found.base_metric.detach()).double().mean())

    features = torch.zeros(change.shape[1:], dtype=torch.float64)
    for position, feature in (change.abs().amax(0) > at_least).nonzero().tolist():
        delta = torch.zeros_like(error)
        delta[:, position] = change[:, position, feature, None] * decoder[feature]
        features[position, feature] = effect(delta)
    errors, sites = (torch.zeros(change.shape[1], dtype=torch.float64) for _ in range(2))
    for position in error.any(-1).any(0).nonzero().flatten().tolist():
        for kept, whole in ((errors, error), (sites, found.difference(splice.place))):
            delta = torch.zeros_like(error)
            delta[:, position] = whole[:, position]
            kept[position] = effect(delta)
    return features, errors, sites


class FeatureEvaluator:
    """Runs the clean prompts with features and errors outside a circuit at their mean over the corrupt prompts.

    Args:
        mean: ``False`` sets them to their values on the pair's corrupt prompt instead.
    """

    def __init__(self, model: Any, task: Task, saes: Sequence[SAE], *, mean: bool = True) -> None:
        task = task.replace(direction="noise")
        self._session = open_session(model, task)
        self._splices = splices(model, self._session, saes)
        self._found = contrast(self._session, [splice.place for splice in self._splices])
        self._reference = {}
        for splice in self._splices:
            features, error = splice.parts(self._found.source.value(splice.place.value))
            if mean:
                features, error = (part.mean(0, keepdim=True).expand_as(part) for part in (features, error))
            self._reference[splice.name] = (features, error)
        everything = FeatureCircuit(
            features={
                s.name: torch.ones(self._reference[s.name][0].shape[1:], dtype=torch.bool) for s in self._splices
            },
            errors={s.name: torch.ones(task.length, dtype=torch.bool) for s in self._splices},
        )
        self.model_metric = float(self.metric(everything).mean())
        self.nothing_metric = float(self.metric(everything.complement()).mean())
        if abs(self.model_metric - self.nothing_metric) < 1e-6:
            raise ValueError(f"ablating all features and errors leaves {task.metric_name} as it is: nothing to explain")

    @torch.no_grad()
    def metric(self, circuit: FeatureCircuit) -> Tensor:
        """The raw metric of each prompt, ``[n]``.

        Site after site is set in its own pass, since what a site sees depends on the ablations before it.
        """
        add: dict[Spot, Tensor] = {}
        for splice in self._splices:
            passed = self._session.runner.forward(self._session.task.base, read=[splice.place.value], add=add)
            features, error = splice.parts(passed.value(splice.place.value))
            mean_features, mean_error = self._reference[splice.name]
            out = ~circuit.features[splice.name].to(error.device)
            delta = ((mean_features - features) * out) @ splice.sae.W_dec
            delta = delta + (mean_error - error) * ~circuit.errors[splice.name][:, None].to(error.device)
            add[splice.place.change] = add.get(splice.place.change, 0) + delta
        logits = self._session.runner.forward(self._session.task.base, add=add).logits
        return self._found.measure.raw(logits).double().cpu()

    def evaluate(self, circuit: FeatureCircuit) -> FeatureFaithfulness:
        """Faithfulness of a circuit and of what it leaves out."""
        scale = self.model_metric - self.nothing_metric
        own, rest = ((self.metric(c) - self.nothing_metric) / scale for c in (circuit, circuit.complement()))
        return FeatureFaithfulness(
            faithfulness=float(own.mean()),
            standard_error=float(own.std() / len(own) ** 0.5),
            completeness=float(rest.mean()),
            size=circuit.size,
            n=len(own),
        )

    def curve(self, scores: FeatureScores, *, thresholds: Sequence[float]) -> list[FeatureFaithfulness]:
        """Faithfulness by size, one circuit for each threshold."""
        return [self.evaluate(FeatureCircuit.above(scores, threshold)) for threshold in thresholds]
