"""From an SAE and a text to a study: latents, passages and pairs are chosen, and all requests made, without a judge."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from interp.metrics import Estimate, mean
from interp.terminal.progress import counted
from interp.tokens.batches import measured
from saes.explanations.choosing import Choice, choose
from saes.explanations.effects import LEAST_EFFECT, Clamping, Effect, effect_items
from saes.explanations.explained import Explained, explained_in
from saes.explanations.passages import Grid, Survey, gather, survey
from saes.explanations.prompts import explanation_request, prompt_version
from saes.explanations.study import Settings, Study
from saes.explanations.trials import Item, detection_items, explained_from, fuzzing_items
from saes.features.examples import Example, Text
from saes.features.page import token_texts
from saes.places.dictionary import Dictionary
from saes.sae import SAE
from saes.same_model import name_of

_FEWEST_PAIRS = 2


def prepare(
    sae: SAE | Dictionary,
    text: Text,
    *,
    part: int | None = None,
    latents: Sequence[int] | None = None,
    max_latents: int = 20,
    settings: Settings = Settings(),
) -> Study:
    """Choose latents and all that will be asked of them. The model runs; no judge does.

    Args:
        sae: An SAE or transcoder of one site, or a dictionary over several places.
        text: Text that it was not trained on, with the model; of a dictionary its site is not read.
        part: Of a dictionary, the part whose latents are explained; it may be left out where there is one.
        latents: Numbers of the latents; by default ``max_latents`` of those with enough passages, in pairs of about
            the same density that are spread over all densities.
        max_latents: How many where ``latents`` are not given.
        settings: How they are explained and scored.

    Raises:
        ValueError: a latent or part that is not there; too little text for any latent, or for a companion; effects of
            latents whose clamp is not defined (crosscoders, and what writes to the residual stream at several layers).

    Example:
        >>> import interp, saes, torch
        >>> from saes.explanations import Settings, prepare
        >>> from saes.features.examples import Text
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=8_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> text = Text(model=model, rows=rows, site=interp.Site.parse(sae.site))
        >>> study = prepare(sae, text, max_latents=2, settings=Settings(scores=("detection",), items=8))
        >>> len(study.companions), study.plan().split(":")[0]
        (2, '2 latents to explain, detection')
    """
    whose = explained_in(sae, text, part=part)
    if "effects" in settings.scores:
        whose.require_clamps()
    sae, text = whose.sae, whose.text
    grid = Grid(text, width=settings.width, seed=settings.seed)
    found = survey(sae, grid)
    choice = choose(found, grid, latents, max_latents=max_latents, items=settings.items)
    explained, chosen = choice.explained, list(choice.companions)
    activity = gather(sae, grid, explained)
    text_of = token_texts(text.model.tokenizer)
    examples: dict[int, list[Example]] = {
        latent: explained_from(activity, latent, top=settings.top, spread=settings.spread, seed=settings.seed)
        for latent in explained
    }
    kl: dict[int, Estimate] = {}
    no_pairs: dict[int, str] = {}
    items: dict[tuple[int, str], list[Item]] = {}
    for score, make in (("detection", detection_items), ("fuzzing", fuzzing_items)):
        if score in settings.scores:
            for latent in chosen:
                items[latent, score] = make(activity, latent, text_of, count=settings.items, seed=settings.seed)
    if "effects" in settings.scores:
        kl, pairs, no_pairs = _effects(whose, grid, settings, choice, found, text_of)
        items |= {(latent, "effects"): some for latent, some in pairs.items()}
    return Study(
        about=_about(whose, grid, settings),
        settings=settings,
        companions=choice.companions,
        densities={latent: found.density(latent) for latent in explained},
        explanations={
            latent: explanation_request(shown, text_of, seed=settings.seed, max_tokens=settings.answer_tokens or 200)
            for latent, shown in examples.items()
        },
        examples={latent: len(shown) for latent, shown in examples.items()},
        items={key: some for key, some in items.items() if some},
        kl=kl,
        no_pairs=no_pairs,
        left_out=choice.left_out,
    )


@torch.no_grad()
def _effects(
    whose: Explained, grid: Grid, settings: Settings, choice: Choice, found: Survey, text_of: Callable[[int], str]
) -> tuple[dict[int, Estimate], dict[int, list[Item]], dict[int, str]]:
    """KL of clamps, pairs of each latent whose clamp does something, and why others have none; rivals are the nearest
    in density that do something."""
    pool = choice.with_rivals(settings.pairs)
    begins = np.flatnonzero(grid.scoring & (np.arange(len(grid.whole)) % grid.per_row == 0))
    if not len(begins):
        raise ValueError(
            "no row to score on begins with a passage without padding; give more text, or leave effects out"
        )
    drawn = np.random.default_rng([settings.seed, 4]).permuted(np.resize(begins, settings.pairs * settings.rows))
    text, device = whose.text, whose.sae.W_enc.device
    effects: dict[int, list[Effect]] = {latent: [] for latent in pool}
    for windows in counted(drawn.reshape(settings.pairs, -1), "clamp latents", settings.pairs, unit="sets of passages"):
        ids = torch.from_numpy(grid.ids[windows].astype(np.int64)).to(device)
        where = measured(torch.zeros_like(ids), text.first_position, ids=ids, drop_tokens=text.drop_tokens)
        if not where.any():
            raise ValueError("no token of the passages that latents are clamped on is measured; raise width")
        clamping = Clamping(whose.sae, text.model, text.sites[0], whose.writes, ids, where)
        for latent in pool:
            effects[latent].append(clamping.effect(latent, settings.strength * float(found.maximum[latent])))
    kl = {latent: mean(torch.tensor([one.kl for one in each], dtype=torch.float64)) for latent, each in effects.items()}
    strong = [latent for latent in pool if kl[latent].value >= LEAST_EFFECT]
    pairs: dict[int, list[Item]] = {}
    none: dict[int, str] = {}
    for latent, companion in choice.companions.items():
        if latent not in strong:
            none[latent] = f"its clamp does too little: a KL of {kl[latent].value:.1e} nats, below {LEAST_EFFECT:g}"
            continue
        near = sorted(strong, key=lambda x: abs(math.log(int(found.active[x]) / int(found.active[latent]))))
        rivals = [effects[x] for x in near if x not in (latent, companion)][: settings.pairs]
        some = effect_items(effects[latent], rivals, text_of, latent=latent, seed=settings.seed) if rivals else []
        if len(some) >= min(_FEWEST_PAIRS, settings.pairs):
            pairs[latent] = some
        else:
            none[latent] = "others raise the same tokens" if rivals else "no other latent's clamp does something"
    return kl, pairs, none


def _about(whose: Explained, grid: Grid, settings: Settings) -> dict[str, Any]:
    text = whose.text
    return {
        "prompts": prompt_version(),
        "sae": whose.identity,
        "model": name_of(text.model),
        "text": {
            "sha256": hashlib.sha256(np.ascontiguousarray(grid.ids.astype("<i8")).tobytes()).hexdigest(),
            "first_position": text.first_position,
            "drop_tokens": list(text.drop_tokens),
        },
        "settings": asdict(settings) | {"scores": list(settings.scores)},
    }
