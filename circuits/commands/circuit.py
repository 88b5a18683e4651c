"""``interp circuit``: score the edges of a task, cut the model down to a circuit, and measure what it explains."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from circuits.commands.options import TaskOptions
from interp.commands.options import OutFile
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

app = App(
    name="circuit",
    help="Find the circuit of a task and measure its faithfulness.",
    help_epilogue=examples(
        "interp circuit gpt2 --size 50 --html circuit.html --save circuit.json",
    ),
)


@app.default
def circuit(
    model: str = "embedded",
    /,
    *,
    about: Annotated[TaskOptions, Parameter(name="*")] = TaskOptions(),
    method: Literal["eap", "eap-ig", "relp", "path-patching", "acdc"] = "eap-ig",
    rules: str | None = None,
    direction: Literal["noise", "denoise"] = "noise",
    steps: int = 5,
    threshold: float = 1e-2,
    size: int = 50,
    ablation: Literal["resample", "mean", "zero"] = "resample",
    save: OutFile | None = None,
    graphml: OutFile | None = None,
    dot: OutFile | None = None,
    neuronpedia: OutFile | None = None,
    mib: OutFile | None = None,
    html: OutFile | None = None,
) -> None:
    """Find a circuit.

    Parameters
    ----------
    model
        As for `interp cache`: embedded, smollm2-135m, a hub id, a folder.
    method
        How edges are scored.
    rules
        For relp: no_ah, paper, or ln; by default paper where queries and keys are normalised (Gemma 3), else no_ah.
    direction
        Of the scores: noise patches corrupt activations into the clean run, denoise the other way round.
    steps
        For eap-ig: points on the line from the corrupt input to the clean one.
    threshold
        For acdc: an edge goes where the divergence rises by less, in nats.
    size
        Edges of largest absolute score to keep.
    ablation
        What stands in for the outputs outside the circuit.
    save
        Write the circuit there, as JSON.
    graphml
        Write it there for Gephi, Cytoscape or yEd.
    dot
        Write it there for Graphviz.
    neuronpedia
        Write it there, unfolded by position, in the graph JSON of circuit-tracer and Neuronpedia.
    mib
        Write it there, with all scores, in the JSON of the MIB benchmark's circuit track.
    html
        Write a page of its figures there; it is one file and opens offline.
    """
    if size < 1:
        raise ValueError(f"--size is {size}; a circuit has 1 edge or more")

    from rich.console import Console

    from circuits.attribution.edges import attribute_edges
    from circuits.circuit import Circuit
    from circuits.commands.inputs import open_task
    from circuits.draw import circuit_page
    from circuits.explorer.explorer import Explorer
    from circuits.explorer.positions import unfold
    from circuits.export import write_dot, write_graphml, write_neuronpedia
    from circuits.faithfulness import Evaluator
    from circuits.mib.areas import mib_areas, unlike_mib
    from circuits.mib.circuit_files import write_mib

    language_model, opened = open_task(model, about, direction=direction)
    say_plan(
        f"{opened.name} in {model}: {len(opened)} pairs of prompts of {opened.length} tokens; edges are scored by"
        f" {method}, the {size} strongest kept, and circuits of several sizes run"
    )
    scores = attribute_edges(language_model, opened, method=method, rules=rules, steps=steps, threshold=threshold)
    whole = Circuit.from_edges(scores, model=model, task=opened.name, prompts=len(opened))
    found = whole.prune(size=min(size, len(whole.edges)))
    evaluator = Evaluator(language_model, opened, ablation=ablation)
    measured, curve = evaluator.evaluate(found), evaluator.curve(whole)
    console = Console(highlight=False)
    console.print(
        f"{opened.name} in {model}: {measured.edges} of {len(whole.edges)} edges, faithfulness"
        f" {measured.faithfulness:.3f} {measured.faithfulness.error('.1g')}, completeness {measured.completeness:.3f},"
        f" area {curve.area:.3f}, distance {curve.distance:.3f} ({ablation} ablation, n = {measured.n}; {method}:"
        f" {scores.cost.forwards:g} forwards, {scores.cost.backwards:g} backwards)"
    )
    strongest = sorted(found.edges.items(), key=lambda edge: -abs(edge[1]))[:5]
    named = ", ".join(f"{writer} -> {reader} {score:+.3f}" for (writer, reader), score in strongest)
    console.print(f"Strongest edges: {named}", markup=False)
    edges = [{"writer": w, "reader": r, "score": score} for (w, r), score in found.edges.items()]
    areas = None if unlike_mib(evaluator) else mib_areas(evaluator, whole)
    answer({"faithfulness": measured, "curve": curve, "mib": areas, "edges": edges, "of": len(whole.edges)})
    if areas is not None:
        console.print(f"By MIB's recipe: CPR {areas.cpr:.3f}, CMD {areas.cmd:.3f}")
    if save is not None:
        found.save(save)
    if mib is not None:
        write_mib(found, mib, model=language_model, whole=whole)
    if graphml is not None:
        write_graphml(found, graphml)
    if dot is not None:
        write_dot(found, dot)
    if neuronpedia is not None:
        tokens = [language_model.tokenizer.decode([token]) for token in opened.clean[0].tolist()]
        unfolded = unfold(language_model, opened, found)
        write_neuronpedia(unfolded, neuronpedia, slug=opened.name, model=model, prompt="".join(tokens), tokens=tokens)
    if html is not None:
        explorer = Explorer(found, model=language_model, task=opened)
        page = circuit_page(
            found, measured, curve, opened, model_name=model, method=method, explorer=explorer, mib=areas
        )
        console.print(f"The page is {page.write(html)}: open it in a browser.")
