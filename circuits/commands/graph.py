"""``interp graph``: what latents add to each other and to the output on one prompt, and whether that holds."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from interp.commands.options import ModelOptions, OutFile
from interp.counts import Count
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

if TYPE_CHECKING:
    from rich.console import Console

    from circuits.graphs.graph import AttributionGraph, PrunedGraph

_SHOWN = 8
"""Nodes, and pairs of sources, that are printed."""

app = App(
    name="graph",
    help="Draw the attribution graph of a prompt, and measure its edges in the model.",
    help_epilogue=examples(
        "interp graph embedded --task induction --prompts 8 --measure --html graph.html",
        "interp graph gpt2 --transcoders folder --prompt 'The capital of France is' --neuronpedia graph.json",
        "interp graph embedded --task ioi --html graph.html --data corpus.jsonl",
        "interp graph embedded --task ioi --why-attends 2.0:16:3",
    ),
)


@app.default
def graph(
    model: str = "embedded",
    /,
    *,
    transcoders: str = "embedded",
    prompt: str | None = None,
    task: str | None = None,
    prompts: int = 50,
    seed: int = 0,
    targets: tuple[str, ...] = (),
    max_nodes: int = 4096,
    leave_out: tuple[int, ...] = (0,),
    nodes: float = 0.8,
    edges: float = 0.98,
    measure: bool = False,
    mode: Literal["direct", "frozen_attention", "live"] = "live",
    why_attends: str | None = None,
    loading: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),
    data: Path | None = None,
    tokens: Count = 100_000,
    html: OutFile | None = None,
    neuronpedia: OutFile | None = None,
    save: OutFile | None = None,
) -> None:
    """Draw an attribution graph.

    Parameters
    ----------
    model
        As for `interp cache`: embedded, smollm2-135m, a hub id, a folder.
    transcoders
        Transcoder set or cross-layer transcoder, ours or circuit-tracer's: a folder, a hub id such as
        mntss/clt-gemma-2-2b-426k, or embedded.
    prompt
        The text; without it the first prompt of the task.
    task
        ioi, greater_than, agreement, induction, docstring, or a JSONL file. Edges are measured again on its prompts;
        without a prompt, the target is the right answer's logit minus the wrong one's.
    prompts
        How many prompts to draw for a built-in task.
    seed
        Of that draw, and of the choice among matched latents.
    targets
        Tokens whose logits are explained, such as " Mary"; repeat the option for several. By default the likeliest.
    max_nodes
        Most latents that become nodes, by influence.
    leave_out
        Positions at which no transcoder stands in: the first, whose activations are massive in most models.
    nodes
        Share of influence that the nodes shown hold.
    edges
        Share of it that the edges shown hold.
    measure
        Take every source out of the model, read its targets, and compare with matched random latents; with a task, on
        its other prompts too.
    mode
        What is held on other prompts and for random latents: all but the source's own paths, patterns, or nothing.
    why_attends
        LAYER.HEAD:QUERY:KEY, such as 2.0:16:3: which pairs of sources, in the query at one position and in the key at
        another, add most to that score of attention, before the softmax.
    data
        Text in which the page shows where latents are most active: a file or folder, as for `interp cache`.
    tokens
        How many of it to read, once for every layer with nodes.
    html
        Write a page there; it is one file and opens offline.
    neuronpedia
        Write the graph there, in the graph JSON of circuit-tracer and Neuronpedia.
    save
        Write what was measured there, as JSON.
    """
    if prompt is None and task is None:
        raise ValueError('there is nothing to explain: pass --prompt "…", or --task ioi for its first prompt')
    if save is not None and not measure:
        raise ValueError("--save holds what was measured: pass --measure too")
    if data is not None and html is None:
        raise ValueError("--data is for the page, which shows where latents are most active in it: pass --html too")
    if prompt == "":
        raise ValueError("--prompt is empty; give the text whose next token is explained")
    entry = None if why_attends is None else _entry(why_attends)

    from rich.console import Console

    from circuits.commands.inputs import open_drawn_task, require_task
    from circuits.graphs.building import attribution_graph, plan_graph
    from circuits.graphs.exchange.writing import write_neuronpedia
    from circuits.graphs.linear.targets import Difference, Targets
    from circuits.graphs.measured.measuring import measure as measure_edges
    from interp.files.scratch import scratch_folder
    from interp.files.writing import write_json
    from interp.models.loading import load_model
    from saes.commands.inputs import text_for
    from saes.places.files import load_any

    if html is not None:  # first, since what it needs may be missing
        from circuits.graphs.page.report import graph_page

    if task is not None:
        require_task(task, prompts)
    language_model = load_model(model, revision=loading.revision, dtype=loading.dtype, device=loading.device)
    device = next(language_model.parameters()).device
    dictionary = load_any(transcoders, device=device)
    drawn = None if task is None else open_drawn_task(language_model, task, prompts=prompts, seed=seed)
    chosen: Targets = targets or None
    text: Any = prompt
    if drawn is not None and prompt is None:
        text = drawn.clean[0]
        if not targets:
            chosen = [Difference(int(drawn.correct[0, 0]), int(drawn.wrong[0, 0]))]
    console = Console(highlight=False, soft_wrap=True)
    options: dict[str, Any] = {"targets": chosen, "max_nodes": max_nodes, "leave_out": leave_out}
    with scratch_folder() as scratch:
        read = None
        if data is not None:
            read = text_for(dictionary, language_model, data, scratch / "tokens", tokens=tokens)
        say_plan(str(plan_graph(language_model, text, dictionary, **options)))
        if read is not None:
            say_plan(f"{tokens:,} tokens of text at most, read once for every layer with nodes")
        found = attribution_graph(language_model, text, dictionary, **options)
        kept = found.prune(nodes=nodes, edges=edges)
        said = _say_graph(console, kept)
        why = None if entry is None else _say_reason(console, found, *entry)
        measured = None
        if measure:
            measured = measure_edges(kept, prompts=drawn, mode=mode, seed=seed)
            for line in measured.summary():
                console.print(line, markup=False)
            if save is not None:
                write_json(save, measured.to_json())
        answer({**said, "why_attends": why, "measured": None if measured is None else measured.to_json()})
        if neuronpedia is not None:
            path = write_neuronpedia(kept, neuronpedia, slug=neuronpedia.stem, scan=model, measurement=measured)
            console.print(f"The graph is {path}.")
        if html is not None:
            page = graph_page(kept, measurement=measured, text=read)
            console.print(f"The page is {page.write(html)}: open it in a browser.")


def _say_graph(console: "Console", kept: "PrunedGraph") -> dict[str, Any]:
    """Print what the graph explains, how much of it, and its largest nodes; returns that as data."""
    found = kept.graph
    shares = list(zip(found.target_names, found.weights[-len(found.target_names) :].tolist(), strict=True))
    named = ", ".join(f"{name!r} {weight:.3f}" for name, weight in shares)
    console.print(f"{found.prompt!r} -> {named}", markup=False)
    console.print(
        f"Replacement {found.scores.replacement:.3f}, completeness {found.scores.completeness:.3f};"
        f" {len(kept):,} of {len(found):,} nodes and {len(kept.links):,} edges hold {kept.settings['nodes']:.0%} and"
        f" {kept.settings['edges']:.0%} of the influence ({found.cost['seconds']:.1f} s)"
    )
    if found.left_out_positions:
        console.print(f"Left out at positions {', '.join(map(str, found.left_out_positions))}: what MLPs write there.")
    top = found.top(_SHOWN)
    for node in top:
        console.print(f"  {node.influence:.3f}  {node}", markup=False)
    return {
        "prompt": found.prompt,
        "targets": dict(shares),
        "scores": found.scores,
        "nodes": len(found),
        "kept": {"nodes": len(kept), "edges": len(kept.links)},
        "top": [{"node": str(node), "influence": node.influence} for node in top],
    }


def _say_reason(
    console: "Console", found: "AttributionGraph", layer: int, head: int, query: int, key: int
) -> dict[str, Any]:
    """Print which pairs of sources add most to one score of attention; returns them as data."""
    from circuits.graphs.qk import score_pairs

    try:
        score = score_pairs(found, layer, head, query=query, key=key)
    except ValueError as error:
        raise ValueError(f"--why-attends {layer}.{head}:{query}:{key}: {error}") from error
    where, to = (f"@{position} {found.labels[position]!r}" for position in (query, key))
    line = f"Layer {layer}, head {head} looks from {where} to {to} with score {score.score:.3f}, of which"
    console.print(line, markup=False)
    top = score.top(_SHOWN)
    for of_query, of_key, adds in top:
        console.print(f"  {adds:+.3f}  {of_query}  x  {of_key}", markup=False)
    pairs = [{"query": of_query, "key": of_key, "adds": adds} for of_query, of_key, adds in top]
    return {"score": score.score, "pairs": pairs}


def _entry(text: str) -> tuple[int, int, int, int]:
    """Layer, head, query and key.

    Raises:
        ValueError: text of another form.
    """
    found = re.fullmatch(r"(\d+)\.(\d+):(\d+):(\d+)", text)
    if found is None:
        raise ValueError(f"--why-attends is {text!r}; it is LAYER.HEAD:QUERY:KEY, such as 2.0:16:3, counted from 0")
    layer, head, query, key = map(int, found.groups())
    return layer, head, query, key
