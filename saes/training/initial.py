"""The state of a run before its first step: weights, optimizer, and the scales of the data."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp import processes
from interp.store.activation_store import ActivationStore
from saes.places.dictionary import Dictionary, parts_of
from saes.sae import SAE
from saes.same_model import check_same_model, said_model
from saes.training.config import TrainConfig
from saes.training.figures.site_statistics import SiteStatistics
from saes.training.optimiser.together import Together, optimizer_for
from saes.training.sources import Source, place_in, source_of, without_row_scale
from saes.training.sparsity.start import start_from
from saes.training.stepping.state import TrainState

STATISTICS_ROWS = 65_536
"""Rows read before the first step, for the data's mean and norm."""


def initial_state(
    config: TrainConfig, store: Source, known: dict[tuple[str, bool], SiteStatistics] | None = None
) -> TrainState:
    """Weights and optimizer before the first step; the data's mean and norm come from its first rows.

    What these say goes to ``known``, by site and whether rows are layer-normalised, and is not read twice.

    Example:
        >>> from pathlib import Path
        >>> import interp, saes
        >>> from saes.training import initial_state
        >>> model, site = interp.load_model("embedded"), "blocks.2.hook_resid_post"
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=1_000)
        >>> store = interp.cache_activations(model, rows, site, "acts")
        >>> state = initial_state(saes.TrainConfig(site=site, out=Path("sae"), k=8, d_sae=128, tokens=1_024), store)
        >>> state.step, state.sae.W_dec.shape
        (0, torch.Size([128, 96]))
    """
    known = {} if known is None else known
    reads, writes = ([_statistics(place, config, store, known) for place in places] for places in config.places)
    scales, target_scales = (tuple(its.scale(config.normalisation) for its in places) for places in (reads, writes))
    means = [its.mean * scale for its, scale in zip(writes, target_scales, strict=True)]
    first = [its.first * scale for its, scale in zip(reads, scales, strict=True)]
    provenance = {"train": config.to_json(), "source": source_of(store)}
    made_by = partial(optimizer_for, kind=config.optimizer, betas=config.adam_betas, eps=config.adam_eps)
    fresh = partial(fresh_state, scales=scales, target_scales=target_scales, decoder=config.decoder, made_by=made_by)
    if config.layout is not None:
        dictionary = Dictionary(
            config.layout,
            ([len(its.mean) for its in reads], [len(its.mean) for its in writes]),
            d_sae=config.d_sae,
            activation=config.build_activation(),
            skip=config.skip,
            budget="part" if config.l0 else config.budget,  # that of an L0 is in the weights of its losses
            provenance=provenance,
        )
        dictionary.initialise(seed=config.seed, means=means)
        for part, places in dictionary.placed():
            start_from(part, dictionary.part_input(places, first), config.l0)
        return fresh(dictionary.to(device_of(config)))
    sae = SAE(
        len(reads[0].mean),
        config.d_sae,
        config.build_activation(),
        d_out=len(writes[0].mean),
        subtract_b_dec=config.target_site is None,
        skip=config.skip,
        site=config.site,
        target_site=config.target_site,
        provenance=provenance,
    )
    if config.init_from is None:
        sae.initialise(seed=config.seed, mean=means[0])
        start_from(sae, first[0], config.l0, sized=config.decoder != "tied")
    else:
        layer_norm = config.normalisation == "layer_norm"
        _start_from(sae, SAE.load(config.init_from), scales[0], target_scales[0], layer_norm=layer_norm)
    if config.decoder == "tied":
        with torch.no_grad():
            sae.W_enc.copy_(sae.W_dec.T)
    return fresh(sae.to(device_of(config)))


def fresh_state(
    sae: SAE | Dictionary,
    scales: tuple[float, ...],
    target_scales: tuple[float, ...],
    *,
    decoder: str,
    made_by: Callable[..., Together] = optimizer_for,
) -> TrainState:
    """An SAE or dictionary, on its device, with an optimizer that has taken no step, which ``made_by`` makes of the
    weights to learn, and of those (``columns``) whose latents are columns."""
    parts = parts_of(sae)
    followers = [part.W_dec for part in parts] if decoder == "tied" else []  # each follows its W_enc
    learned = [
        parameter
        for parameter in sae.parameters()
        if parameter.requires_grad and not any(parameter is follower for follower in followers)
    ]
    columns = [part.W_enc for part in parts]
    for weights in learned:  # who puts in weights of his own may have laid them in memory otherwise than an SAE does
        turned = any(weights is matrix for matrix in columns)
        weights.data = weights.data.T.contiguous().T if turned else weights.data.contiguous()
    optimizer = made_by(learned, columns=columns)
    shape = (sae.d_sae,) if isinstance(sae, SAE) else (len(parts), sae.d_sae)
    silent = torch.zeros(shape, dtype=torch.int64, device=parts[0].W_enc.device)
    return TrainState(sae.train(), optimizer, scales, target_scales, silent, (1.0,) * len(parts))


def device_of(config: TrainConfig) -> torch.device:
    """The one asked for, else this process's GPU, else the CPU."""
    name = config.device or processes.default_device() or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"device is {name!r}, which is not to be had here ({first}); leave it out") from error


def _start_from(sae: SAE, other: SAE, scale: float, target_scale: float, *, layer_norm: bool) -> None:
    """Weights of a finished SAE, brought back to the scale that training runs in."""
    mine, found = ({name: tuple(p.shape) for name, p in s.named_parameters()} for s in (sae, other))
    if mine != found or sae.subtract_b_dec != other.subtract_b_dec:
        raise ValueError(f"the SAE to start from has weights {found}, this one needs {mine}")
    if other.layer_norm != layer_norm:
        raise ValueError(
            f"the SAE to start from {'is' if other.layer_norm else 'is not'} of layer-normalised activations: pass"
            f" normalise={'layer_norm' if other.layer_norm else 'mean_norm'!r}"
        )
    check_same_model(other, said_model(sae), name="the SAE to start from")
    other.fold_scales(1 / scale, 1 / target_scale)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(other.get_parameter(name))


def _statistics(
    site: str, config: TrainConfig, store: Source, known: dict[tuple[str, bool], SiteStatistics]
) -> SiteStatistics:
    """Of the first rows that training will see; SAEs that are trained together see the same."""
    key = (site, config.normalisation == "layer_norm")
    if key not in known:
        rows, count = [], 0
        wanted, place = min(STATISTICS_ROWS, len(store)), place_in(store, site)
        for batch in store.batches_of([place], min(config.batch_size, wanted), seed=config.data_seed):
            rows.append(batch[place])
            count += len(rows[-1])
            if count >= wanted:
                break
        raw = torch.cat(rows)
        data = without_row_scale(raw, config)
        _check_finite(raw, data, site, config, store)
        known[key] = SiteStatistics.of(data, site=site)
    return known[key]


def _check_finite(
    raw: Float[Tensor, "n d"], data: Float[Tensor, "n d"], site: str, config: TrainConfig, store: Source
) -> None:
    if (whole := data.norm(dim=-1).isfinite()).all():
        return
    bad = (~whole).nonzero().flatten().tolist()
    reason = "too large for float32" if raw[bad[0]].isfinite().all() else "not finite"
    raise ValueError(
        f"{len(bad)} of the first {len(raw)} activations at {site} are {reason}; the first is number {bad[0]} of the"
        f" run{_token_of(store, config, bad[0])}. Cache in float32 or bfloat16, or leave such tokens out"
    )


def _token_of(store: Source, config: TrainConfig, number: int) -> str:
    """Which token of the text stands at a place of the run's first epoch, in words; nothing where that is not known."""
    if not isinstance(store, ActivationStore):
        return ""
    batch, place = divmod(number, config.batch_size)
    token = int(next(store.indices(config.batch_size, config.data_seed, batch))[place])
    found = store.tokens(slice(token, token + 1))
    return f": token {token} of the store, position {int(found.positions)} of document {int(found.documents)}"
