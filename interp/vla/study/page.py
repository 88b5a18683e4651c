"""The report of a study as one HTML page."""

import re
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interp.pages.html_page import COLORS, Page
from interp.vla.policy import words
from interp.vla.study.contests import STEERS_FROM, TARGETS, Dose
from interp.vla.study.study import Study

_SHOWN_TOKENS = 6


def study_page(study: Study, film: bytes) -> Page:
    """Figures, tables and the film of a study."""
    options, head, target = study.options, study.headline, TARGETS[study.options.concept]
    concept, unit = options.concept, f"{target.metric}, mm a step"
    n = f"n = {options.episodes} episodes of {options.steps} steps, {options.sets} random sets"
    page = Page(
        f"Steering a policy by its {concept!r} neurons",
        subtitle=f"Policy {study.policy} on Meta-World reach-v3, {study.date}. {n}. Method: Häon et al. 2025"
        " (arXiv 2509.00328), activations set to a constant.",
    )
    page.cards(
        [
            (f"strength {options.value:g}", re.split("[:,]", head.verdict)[0], f"on {study.instruction!r}"),
            (
                "effect",
                f"{head.effect.value:+.2f} mm a step",
                f"on {target.metric}; {head.effect.error()} over episodes",
            ),
            (
                "random sets",
                f"{head.band[0]:+.2f} … {head.band[1]:+.2f}",
                f"middle 95 % of {options.sets}; p = {head.p:.3g}",
            ),
            (
                "the word instead",
                f"{study.word.value:+.2f} mm a step",
                repr(words.with_word(study.instruction, concept)),
            ),
            (
                "damage from",
                "not seen" if study.damage_from is None else f"strength {study.damage_from:g}",
                f"random sets leave ± {STEERS_FROM} mm a step",
            ),
        ]
    )
    natural = study.natural
    page.text(
        f"Verdict at strength {options.value:g}: {head.verdict}. The unit of chance is the set of neurons,"
        " not the episode, since rollouts are nearly the same every time: p = (1 + sets that do at least as much) /"
        f" (1 + sets). Natural activations: median {natural.median:.2g}, 99th percentile {natural.p99:.2g}, largest"
        f" {natural.largest:.2g}."
    )
    page.heading("Side by side").gif(film, f"One episode, {study.instruction!r}, at strength {options.value:g}.")
    page.heading("Strength").figures(
        (dose_figure(study), f"Change of {unit}, against the same episodes unsteered; {n}."),
        (_sets_figure(head, options.value, concept), f"Strength {options.value:g}: each random set, and the cluster."),
    )
    columns = [
        "effect",
        f"{words.ANTONYMS[concept]!r} neurons",
        "random sets, 95 %",
        "p",
        "damage",
        "heading",
        "words",
        "verdict",
    ]
    page.table(
        ["strength", *columns],
        [_dose_row(f"{each.value:g}", each) for each in study.doses],
    )
    page.text(
        "Heading: cosine of where the hand went with where it goes unsteered."
        " Words: share of steps in which the steered model would rather have said a word than acted (it is made to"
        f" act). Damage: the random band leaves ± {STEERS_FROM} mm a step, so that any neurons break the policy at that"
        " strength."
    )
    page.heading("Instructions and layers")
    page.table(["instruction", *columns], [_dose_row(text, each) for text, each in study.instructions.items()])
    page.table(["layers", *columns], [_dose_row(text, each) for text, each in study.layers.items()])
    page.heading("Scope: which positions are steered").figures((_scope_figure(study), f"Change of {unit}."))
    page.text(
        "The first action token (x, left and right) is predicted from the prompt, the other two (y and z) from action"
        " tokens: steering while decoding cannot move x, and steering the prompt moves y and z only through what later"
        " tokens read of it."
    )
    page.heading("Side effects")
    page.table(
        ["reach the goal", "success", "Wilson 95 %", "steps to the goal", "cut at the box"],
        [
            [
                label,
                f"{o.success.successes} of {o.success.n}",
                f"{o.success.low:.2f} … {o.success.high:.2f}",
                o.length,
                o.clipped,
            ]
            for label, o in study.outcomes.items()
        ],
    )
    page.table(
        ["KL(unsteered || steered), nats a token", f"{concept!r} neurons", "random sets, median", "largest"],
        [
            [
                label,
                str(getattr(study.side_effects, name)),
                float(np.median(random := [getattr(each, name).value for each in study.random_side_effects])),
                max(random),
            ]
            for name, label in (("text", "neutral sentences"), ("actions", "first action, reach the goal"))
        ],
    )
    page.heading("The neurons, and the tokens that justify them")
    page.table(
        ["layer", "index", "score", "top tokens"],
        [
            [m.layer, m.index, m.score, ", ".join(token.text for token in m.tokens[:_SHOWN_TOKENS])]
            for m in study.between.cluster.members
        ],
    )
    return page


def dose_figure(study: Study) -> go.Figure:
    """Effect over strength: the cluster, its opposite, the band of random sets."""
    concept = study.options.concept
    at = [0.0, *(each.value for each in study.doses)]
    low, high = ([0.0, *(each.band[i] for each in study.doses)] for i in (0, 1))
    figure = go.Figure()
    figure.add_scatter(x=at, y=high, mode="lines", line={"width": 0}, showlegend=False, hoverinfo="skip")
    figure.add_scatter(
        x=at, y=low, mode="lines", line={"width": 0}, fill="tonexty", fillcolor="rgba(140,133,124,.3)",
        name=f"{study.options.sets} random sets, middle 95 %",
    )  # fmt: skip
    for name, values, color in (
        (f"{concept!r} neurons", [each.effect.value for each in study.doses], COLORS[0]),
        (f"{words.ANTONYMS[concept]!r} neurons", [each.opposite.value for each in study.doses], COLORS[1]),
    ):
        figure.add_scatter(x=at, y=[0.0, *values], mode="lines+markers", line={"color": color}, name=name)
    figure.add_hline(
        y=study.word.value, line={"dash": "dot", "color": COLORS[2]}, annotation_text="the word in the prompt"
    )
    if study.damage_from is not None:
        figure.add_vline(
            x=study.damage_from, line={"dash": "dash", "color": COLORS[3]}, annotation_text="damage from here"
        )
    return figure.update_layout(
        title=f"{study.instruction!r}: effect by strength",
        xaxis_title="what the activations are set to (0: unsteered)",
        yaxis_title=f"change of {TARGETS[concept].metric}, mm a step",
    )


def _sets_figure(dose: Dose, value: float, concept: str) -> go.Figure:
    figure = go.Figure()
    width = max(np.ptp([*dose.random, dose.effect.value]) / 40, 0.01)
    figure.add_histogram(x=dose.random, xbins={"size": width}, marker_color=COLORS[5], name="random sets")
    figure.add_vline(x=dose.effect.value, line={"color": COLORS[0], "width": 3}, annotation_text=f"{concept!r} neurons")
    return figure.update_layout(title="Against random sets", xaxis_title="mm a step", yaxis_title="sets")


def _scope_figure(study: Study) -> go.Figure:
    figure = go.Figure()
    for text, effects in study.scopes.items():
        figure.add_bar(x=list(effects), y=list(effects.values()), name=repr(text))
    return figure.update_layout(barmode="group", xaxis_title="scope", yaxis_title="mm a step")


def _dose_row(label: str, dose: Dose) -> Sequence[object]:
    return [
        label,
        f"{dose.effect.value:+.2f}",
        f"{dose.opposite.value:+.2f}",
        f"{dose.band[0]:+.2f} … {dose.band[1]:+.2f}",
        f"{dose.p:.3f}",
        "yes" if dose.damaged else "no",
        f"{dose.heading:+.2f}",
        f"{dose.words:.2f}",
        dose.verdict,
    ]
