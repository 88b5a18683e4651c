"""Circuits of sparse-autoencoder features (Marks et al. 2024, "Sparse Feature Circuits").

At every site with an SAE the activation is the sum of its features' decoder directions and of an error: ``x = W_dec f +
b_dec + e``. Features and errors are the nodes. Nothing has to be spliced into the model to score them: with gradients
passed straight through (the features' decoder sees the gradient at ``x``, and so does the error, and what lies upstream
sees it too), the gradient of a feature is ``W_dec . (d metric / d x)``, and the effects of all features and the error
of a site sum to the effect of ``x``. That holds for attribution patching, for relevance, and for integrated gradients
with features and error interpolated together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from circuits.anatomy.nodes import Hook, NodeHooks, node_hooks
from circuits.anatomy.wiring import width_of
from circuits.attribution.exact import live, patch_cells
from circuits.attribution.integrated import mean_gradient
from circuits.rules import rules_of_method
from circuits.runs.pair import Contrast, Session, contrast, open_session
from circuits.runs.runner import Start
from circuits.scores.agreement import Agreement
from circuits.scores.agreement import agreement as agree
from circuits.scores.base import Attributed
from circuits.tasks.task import Task
from interp.sites.site import Site
from interp.terminal.short_repr import short_repr
from saes.sae import SAE
from saes.same_model import check_same_model, name_of, said_model

METHODS = ("atp", "relp", "ig", "patching")
_FAMILIES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


@dataclass(frozen=True)
class FeatureNode:
    """A feature at a position of a site, or the site's error there (``feature`` None)."""

    site: str
    """Name of the site that the SAE reconstructs."""
    position: int
    """Position of the prompts, counted from 0."""
    feature: int | None
    """Number of the latent; None for the SAE's error."""

    def __str__(self) -> str:
        return f"{self.site}/{'error' if self.feature is None else self.feature}@{self.position}"


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureScores(Attributed):
    """Effects of features and errors at every site; ``denoise`` or ``noise`` as for nodes.

    ``values [node]`` and ``per_prompt [n, node]`` are of the features and errors that differ between the runs; the
    others have no effect. The mappings hold all.
    """

    features: Mapping[str, Tensor]
    """By site, ``[position, d_sae]``: mean over prompts."""
    errors: Mapping[str, Tensor]
    """By site, ``[position]``: the effect of the SAE's error, mean over prompts."""
    sites: Mapping[str, Tensor]
    """By site, ``[position]``: the effect of the whole activation, which features and error sum to (not for
    ``patching``)."""
    nodes: tuple[FeatureNode, ...]
    """In the order of ``values``."""
    agreement: Agreement | None = None
    """With exact patching, where it was asked for."""
    family: ClassVar[str] = "latents"
    axes: ClassVar[tuple[str, ...]] = ("node",)

    def top(self, k: int) -> list[tuple[str, int, int | None, float]]:
        """The ``k`` strongest as (site, position, feature or None for the error, score)."""
        nodes: list[tuple[str, int, int | None, float]] = []
        for site, values in self.features.items():
            flat = values.flatten()
            for i in flat.abs().topk(min(k, flat.numel())).indices.tolist():
                nodes.append((site, i // values.shape[1], i % values.shape[1], float(flat[i])))
            nodes += [(site, p, None, float(e)) for p, e in enumerate(self.errors[site])]
        return sorted(nodes, key=lambda node: -abs(node[3]))[:k]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureCircuit:
    """Which features and errors are in: masks by site, ``[position, d_sae]`` and ``[position]``.

    Example:
        >>> import circuits, interp, saes
        >>> import torch
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> scores = circuits.attribute_features(model, task, [sae], method="atp")
        >>> circuit = circuits.FeatureCircuit.strongest(scores, 10)
        >>> circuit.size
        10
    """

    features: Mapping[str, Tensor]
    """By site ``[position, d_sae]``: True for features that are in."""
    errors: Mapping[str, Tensor]
    """By site ``[position]``: True where the SAE's error is in."""

    __repr__ = short_repr

    @classmethod
    def above(cls, scores: FeatureScores, threshold: float) -> "FeatureCircuit":
        """Nodes whose absolute (mean signed) score is at least ``threshold``."""
        if not threshold >= 0:
            raise ValueError(f"threshold is {threshold}; it must be 0 or more")
        return cls(
            features={site: values.abs() >= threshold for site, values in scores.features.items()},
            errors={site: values.abs() >= threshold for site, values in scores.errors.items()},
        )

    @classmethod
    def strongest(cls, scores: FeatureScores, size: int) -> "FeatureCircuit":
        """The ``size`` nodes of largest absolute score."""
        if not size >= 0:
            raise ValueError(f"size is {size}; it must be 0 or more nodes")
        circuit = cls(
            features={site: torch.zeros_like(values, dtype=torch.bool) for site, values in scores.features.items()},
            errors={site: torch.zeros_like(values, dtype=torch.bool) for site, values in scores.errors.items()},
        )
        for site, position, feature, _ in scores.top(size):
            if feature is None:
                circuit.errors[site][position] = True
            else:
                circuit.features[site][position, feature] = True
        return circuit

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


@torch.enable_grad()
def attribute_features(
    model: Any,
    task: Task,
    saes: Sequence[SAE],
    *,
    method: str = "relp",
    rules: str | Iterable[str] | None = None,
    steps: int = 10,
    at_least: float = 0.0,
    agreement: bool = False,
) -> FeatureScores:
    """Score every feature and error of SAEs.

    Args:
        saes: One or more, each with its ``site``, such as ``blocks.3.hook_resid_post``.
        method: ``atp`` or ``relp`` (two forwards, one backward), ``ig`` (``steps`` forwards and backwards for each
            site), or ``patching``: exact, one forward for each feature and position that differs between the
            runs, batched.
        rules: For ``relp``, as for :func:`circuits.attribute`.
        at_least: Leave out features whose largest change of activation is not above this.
        agreement: Also patch exactly, and say how well the estimate agrees.

    Raises:
        ValueError: an SAE without a site, of another width, of another model, or two at one site; unknown method.

    Example:
        >>> import circuits, interp, saes
        >>> import torch
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> scores = circuits.attribute_features(model, task, [sae], method="atp")
        >>> type(scores).__name__
        'FeatureScores'
    """
    in_force = rules_of_method(method, rules, methods=METHODS, default="paper", steps=steps, what=" for features")
    task.require_aligned("scores of features")
    session = open_session(model, task)
    spliced = splices(model, session, saes)
    hooks = [splice.hooks for splice in spliced]
    gradient = method in ("atp", "relp")
    pair = contrast(session, [*hooks, *session.residual], gradients=gradient, rules=in_force)
    slopes: Mapping[Hook, Tensor] = {}
    if gradient:
        slopes = session.runner.gradients(pair.base_metric.sum(), pair.base, [of_site.change for of_site in hooks])
    features, errors, sites, nodes, effects = {}, {}, {}, [], []
    for splice in spliced:
        change, error = splice.changes(pair)
        whole = pair.difference(splice.hooks)
        cells = (change.abs().amax(0) > at_least).nonzero()
        positions = whole.any(-1).any(0).nonzero()
        if method == "patching":
            own = _exact(session, pair, splice, (change, error, whole), cells, positions)
        else:
            if gradient:
                slope = slopes[splice.hooks.change].detach()
            else:
                start = Start(splice.layer, pair.base.value(session.residual[splice.layer].value))
                slope = mean_gradient(session, pair, splice.hooks, whole, steps=steps, start=start)
            of_features = (change * (slope @ splice.sae.W_dec.detach().T))[:, cells[:, 0], cells[:, 1]]
            at_positions = [(part * slope).double().sum(-1)[:, positions[:, 0]] for part in (error, whole)]
            own = (of_features, at_positions[0], at_positions[1])
        by_feature, by_error, by_site = (part.double().cpu() for part in own)
        features[splice.name] = _everywhere(by_feature, cells, change.shape[1:])
        errors[splice.name] = _everywhere(by_error, positions, change.shape[1:2])
        sites[splice.name] = _everywhere(by_site, positions, change.shape[1:2])
        nodes += [FeatureNode(splice.name, position, feature) for position, feature in cells.tolist()]
        nodes += [FeatureNode(splice.name, position, None) for position in positions[:, 0].tolist()]
        effects += [by_feature, by_error]
    per_prompt = torch.cat(effects, 1)
    scores = FeatureScores(
        features=features,
        errors=errors,
        sites=sites,
        nodes=tuple(nodes),
        values=per_prompt.mean(0),
        per_prompt=per_prompt,
        method=method,
        rules=None if in_force is None else tuple(sorted(in_force)),
        direction=task.direction,
        metric=task.metric_name,
        clean_metric=pair.measure.clean,
        corrupt_metric=pair.measure.corrupt,
        cost=session.runner.cost,
    )
    if not agreement or method == "patching":
        return scores
    exact = attribute_features(model, task, saes, method="patching", at_least=at_least)
    return replace(scores, agreement=agree(scores, exact))


def _everywhere(effects: Tensor, cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Means over prompts of ``effects [n, cell]``, put where they are of; 0 elsewhere."""
    values = torch.zeros(*shape, dtype=torch.float64)
    values[tuple(cells.T.cpu())] = effects.mean(0)
    return values


@dataclass(frozen=True, kw_only=True, eq=False)
class Splice:
    """An SAE at its site."""

    name: str
    """Name of the site that it reconstructs."""
    layer: int
    """Layer of that site, counted from 0."""
    sae: SAE
    """The SAE whose latents are scored."""
    hooks: NodeHooks
    """Where the site is read and changed in the model."""

    @torch.no_grad()
    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[n, position, d_sae]`` and error ``[n, position, d]`` of an activation."""
        latents = self.sae.encode(x)
        return latents.to_dense(), x - self.sae.decode(latents, x)

    def changes(self, pair: Contrast) -> tuple[Tensor, Tensor]:
        """How features and error of the source run differ from the base run's."""
        source, base = (self.parts(run.value(self.hooks.value).detach()) for run in (pair.source, pair.base))
        return source[0] - base[0], source[1] - base[1]


def splices(model: Any, session: Session, saes: Sequence[SAE]) -> list[Splice]:
    """Check SAEs against the model and find their places; raises as :func:`attribute_features`."""
    if not saes:
        raise ValueError("saes is empty; pass at least one SAE with its site")
    by_site: dict[str, Splice] = {}
    for number, sae in enumerate(saes):
        if sae.site is None:
            raise ValueError(f"SAE {number} does not say its site; set sae.site, such as 'blocks.3.hook_resid_post'")
        site = Site.parse(sae.site)
        if site.kind not in _FAMILIES or site.layer is None:
            raise ValueError(f"SAE {number} is of {site}; features are traced at {', '.join(_FAMILIES)}")
        if site.layer >= len(session.anatomy.blocks):
            raise ValueError(f"SAE {number} is of {site}, but this model has {len(session.anatomy.blocks)} layers")
        width, own = width_of(session.anatomy), name_of(model)
        if sae.d_in != width:
            raise ValueError(
                f"SAE {number} is of another model: it was trained on {said_model(sae) or 'an unnamed one'} with"
                f" {sae.d_in} dimensions, this is {own or 'one'} with {width}. Load that model, or another SAE"
            )
        check_same_model(sae, own, name=f"SAE {number}")
        if sae.d_out != sae.d_in or sae.skip:
            raise ValueError(f"SAE {number} is a transcoder, which does not take an activation apart; pass an SAE")
        if sae.layer_norm:
            raise ValueError(
                f"SAE {number} is of layer-normalised activations: its features have no fixed direction in the model's."
                " Pass one that was trained with --normalise mean_norm"
            )
        if str(site) in by_site:
            raise ValueError(f"two SAEs are of {site}; pass one for each site")
        hooks = node_hooks(session.anatomy, site.kind)[site.layer]
        by_site[str(site)] = Splice(name=str(site), layer=site.layer, sae=sae, hooks=hooks)
    return sorted(by_site.values(), key=lambda splice: (splice.layer, _FAMILIES.index(Site.parse(splice.name).kind)))


def _exact(
    session: Session,
    pair: Contrast,
    splice: Splice,
    parts: tuple[Tensor, Tensor, Tensor],
    cells: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Effects ``[n, cell]`` of the features, and ``[n, position]`` of errors and of whole activations."""
    change, error, whole = parts
    decoder = splice.sae.W_dec.detach()

    def effects(of: Tensor, value: Callable[..., Tensor]) -> Tensor:
        """Of adding ``value(*cell) [n, d]`` at a cell's position."""

        def added(cell: tuple[int, ...]) -> Tensor:
            delta = torch.zeros_like(error)
            delta[:, cell[0]] = value(*cell)
            return live(session, delta)

        chosen = [tuple(cell) for cell in of.tolist()]
        return patch_cells(session, pair, at=splice.hooks.change, layer=splice.layer, cells=chosen, change=added).T

    return (
        effects(cells, lambda position, feature: change[:, position, feature, None] * decoder[feature]),
        effects(positions, lambda position: error[:, position]),
        effects(positions, lambda position: whole[:, position]),
    )
