"""``interp concept``: where in a model a concept can be read off, and whether a prediction depends on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from interp.commands.options import ModelOptions, OutFile
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

if TYPE_CHECKING:
    from interp.concepts import LayerScores

_SIGNIFICANT = 0.05
_LEGEND = (
    "Held-out accuracy: how often a plane tells the concept's prompts from the others, on prompts that were left out"
    " of its fit; both sides weigh the same, so chance is 0.5. TCAV (testing with concept activation vectors): share"
    " of the prompts after which the target's logit rises along the plane's normal, the concept vector; near 0 says"
    " as much as near 1. Random TCAV: the same of random sets against each other, which is 0 or 1 too wherever"
    " gradients agree. Mean cosine: of that logit's gradient with the concept vector. p: of the cosine against those"
    " of the random sets, two-sided and times the number of layers. ± is one standard error, of accuracy over"
    " prompts, else over the sets."
)

app = App(
    name="concept",
    help="Concept vectors at every layer: held-out accuracy, TCAV with significance, stability.",
    help_epilogue=examples(
        "interp concept gpt2 --positive dogs.txt --negative rest.txt --target ' bark' --html concept.html",
    ),
)


@app.default
def concept(
    model: str,
    /,
    *,
    positive: Path,
    negative: Path,
    target: str,
    prompts: Path | None = None,
    sets: int = 20,
    loading: ModelOptions = ModelOptions(),
    html: OutFile | None = None,
) -> None:
    """Fit a concept vector at every layer, and test whether the target's logit depends on it.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder, a .gguf file, embedded, or smollm2-135m.
    positive
        Text file with a prompt a line that ends on the concept.
    negative
        The same of anything else: the pool of random sets, best twice as many.
    target
        A text of one token, whose logit is followed.
    prompts
        Prompts after which it is; by default those of --negative.
    sets
        Random sets, 20 or more.
    html
        Page to write.
    """
    from rich.console import Console
    from rich.table import Table

    from interp.concepts import across_layers, last_states, target_gradients
    from interp.concepts.layer_scores import check_sets
    from interp.models.loading import load_model

    check_sets(sets)
    own, others = _lines(positive), _lines(negative)
    if len(own) < 5 or len(others) < 10:
        raise ValueError(
            f"--positive has {len(own)} prompts, --negative {len(others)}; give 5 or more of the concept, and 10 or"
            " more others (best twice as many as of the concept)"
        )
    inputs = others if prompts is None else _lines(prompts)
    loaded = load_model(model, **vars(loading))
    if loaded.tokenizer is None:
        raise ValueError(f"{model} has no tokenizer, which prompts need: use interp.concepts with token ids")
    ids = loaded.tokenizer(target, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"--target {target!r} is {len(ids)} tokens; give one, often with a space in front")
    say_plan(f"{len(own)} prompts of the concept against {sets} random sets of {len(others)} others, at every layer")
    found = across_layers(
        last_states(loaded, own), last_states(loaded, others), target_gradients(loaded, inputs, ids[0]), sets=sets
    )
    columns = ["layer", "held-out accuracy", "TCAV", "random TCAV", "mean cosine", "p (corrected)"]
    rows = [
        [
            str(each.layer),
            *map(str, (each.concept.accuracy, each.tcav, each.random_tcav, each.sensitivity)),
            f"{each.p_value:.2g}",
        ]
        for each in found.layers
    ]
    table = Table(*columns, show_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    finding = _finding(found, target)
    console.print(finding, markup=False)
    console.print(table)
    stability = (
        f"Over layers TCAV has a standard deviation of {found.deviation:.3f}, {found.variation:.3f} of its mean;"
        f" range / mean {found.range_ratio:.3f}."
    )
    console.print(stability)
    answer(found)
    if html:
        from interp.pages.html_page import Page

        page = Page(f"A concept in {model}", subtitle=f"{len(own)} prompts of it, {len(others)} others, {sets} sets")
        page.text(finding).figures(_figure(found)).table(columns, rows).text(_LEGEND).text(stability)
        console.print(f"Report: {page.write(html)}")


def _finding(found: "LayerScores", target: str) -> str:
    """Where the concept is read off best, and at which layers the target depends on it."""
    best = max((each.concept.accuracy for each in found.layers), key=float)
    where = ", ".join(str(each.layer) for each in found.layers if each.concept.accuracy.value == best.value)
    read = f"Read off best at layer {where}: held-out accuracy {best}, where chance is 0.5."
    sure = [
        f"{each.layer} ({'rises' if each.sensitivity.value > 0 else 'falls'}, p {each.p_value:.2g})"
        for each in found.layers
        if each.p_value < _SIGNIFICANT
    ]
    if sure:
        return f"{read} The logit of {target!r} goes with it more than with random sets at layer {', '.join(sure)}."
    least = min(found.layers, key=lambda each: each.p_value)
    return (
        f"{read} At no layer does the logit of {target!r} go with it more than with random sets"
        f" (least p {least.p_value:.2g}, at layer {least.layer})."
    )


def _figure(found: "LayerScores") -> tuple[Any, str]:
    import plotly.graph_objects as go

    from interp.pages.html_page import COLORS

    figure = go.Figure(layout={"title": "By layer"})
    curves = {
        "held-out accuracy": [each.concept.accuracy for each in found.layers],
        "TCAV": [each.tcav for each in found.layers],
        "random TCAV": [each.random_tcav for each in found.layers],
    }
    for (name, values), color in zip(curves.items(), COLORS[:2] + COLORS[5:], strict=True):
        figure.add_scatter(
            x=[each.layer for each in found.layers],
            y=[value.value for value in values],
            error_y={"array": [value.standard_error for value in values]},
            name=name,
            line={"color": color, "dash": "dot" if name.startswith("random") else "solid"},
        )
    figure.update_xaxes(title="layer (after this block)", dtick=max(1, len(found.layers) // 16))
    figure.update_yaxes(title="share of prompts", range=[-0.05, 1.1])
    return figure, f"{found.sets} random sets, ± one standard error."


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a text file with a prompt a line")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8; give a prompt a line") from None
    if not lines:
        raise ValueError(f"{path} holds no prompts; give one a line")
    return lines
