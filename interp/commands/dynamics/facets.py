"""``interp facets``: the different reasons for which a unit fires."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from interp.commands.options import ModelOptions, OutFile, RowOptions
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

if TYPE_CHECKING:
    from interp.facets import Facets

_LEGEND = (
    "A facet is a cluster of the contexts in which the unit is active, by the residual stream before its block; the"
    " token at which it is active stands in ⟦ ⟧. Silhouette: from -1 to 1, how much nearer contexts are to their own"
    " cluster than to the next; there is one facet unless it is above what 95 % of noise shows. Stability: adjusted"
    " Rand index of the clusters with those of bootstrap samples, 1 where they are the same, 0 by chance. ± is one"
    " standard error."
)


@dataclass(frozen=True, kw_only=True)
class ManyRows(RowOptions):
    """Enough rows for clusters; short ones, so that contexts are many."""

    sequences: int = 200
    """Rows to look for contexts in."""
    context: int | None = 128
    """How many tokens a row has."""


app = App(
    name="facets",
    help="The different reasons for which a neuron fires: clusters of its contexts.",
    help_epilogue=examples(
        "interp facets gpt2 --unit blocks.5.mlp.hook_post:17 --data my_text/ --html facets.html",
    ),
)


@app.default
def facets(
    model: str,
    /,
    *,
    unit: str,
    data: str,
    rows: Annotated[ManyRows, Parameter(name="*")] = ManyRows(),
    loading: ModelOptions = ModelOptions(),
    html: OutFile | None = None,
) -> None:
    """Cluster the contexts in which a unit is active, by the residual stream before its block.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder, a .gguf file, embedded, or smollm2-135m.
    unit
        Site and index, such as blocks.2.mlp.hook_post:17.
    data
        Text or token ids, as interp cache takes them.
    html
        Page to write.
    """
    from rich.console import Console

    from interp.commands.dynamics.one_or_all import whole_rows_of
    from interp.facets import contexts_of
    from interp.facets import facets as cluster
    from interp.models.loading import load_model
    from interp.tokens.sequences import text_rows

    site, _, index = unit.rpartition(":")
    if not site or not index.isdigit():
        raise ValueError(f"--unit is {unit!r}; write site:index, such as blocks.2.mlp.hook_post:17")
    loaded = load_model(model, **vars(loading))
    tokens = whole_rows_of(*text_rows(loaded, data, **vars(rows)))
    say_plan(f"{unit} in {len(tokens)} rows of {tokens.shape[1]} tokens; clusters of its contexts against noise")
    try:
        contexts = contexts_of(loaded, tokens, site, int(index))
    except ValueError as error:
        raise ValueError(f"--unit {unit}: {error}") from error
    found = cluster(contexts.vectors, contexts.activation, direction=_direction(loaded, site, int(index)))
    console = Console(highlight=False)
    finding = _finding(found)
    console.print(finding)
    sections = []
    for number, facet in enumerate(found.facets):
        title = f"Facet {number}: share of contexts {facet.share}, mean activation {facet.activation}"
        console.print(f"\n{title}", markup=False)
        texts = [_text(loaded, tokens, contexts, member) for member in facet.members[:8]]
        for text in texts:
            console.print(f"  {text}", markup=False)
        sections.append((title, texts))
    answer(found)
    if html:
        from interp.pages.html_page import Page

        page = Page(
            f"Facets of {unit} in {model}", subtitle=f"{len(tokens)} rows of {tokens.shape[1]} tokens of {data}"
        )
        page.text(finding).text(_LEGEND)
        for title, texts in sections:
            page.heading(title).table(["contexts nearest to the centre"], [[text] for text in texts])
        console.print(f"Report: {page.write(html)}")


def _finding(found: "Facets") -> str:
    """How many reasons there are, and against what."""
    from interp.facets.clustering import MOST

    compared = f"silhouette {found.silhouette:.3f}, in noise of the same covariance below {found.null_silhouette:.3f}"
    if found.stability is None:
        return f"One facet: {found.n} contexts fall into clusters no more than noise does ({compared})."
    more = "; there may be more" if len(found.facets) == MOST else ""
    return f"{len(found.facets)} facets of {found.n} contexts{more}: {compared}; stability {found.stability}."


def _direction(model: Any, site: str, index: int) -> Any:
    """What a neuron reads: its row of the MLP's first matrix; of other sites nothing is known."""
    from transformers.pytorch_utils import Conv1D

    from interp.models.bridge import unwrapped
    from interp.sites.site import Site

    place = Site.parse(site)
    if place.kind != "mlp_post":
        return None
    modules = model.blocks[place.layer].mlp._modules
    inner = unwrapped(modules.get("gate") or modules["in"])
    stored = inner.get_parameter("weight")
    weight = stored.T if isinstance(inner, Conv1D) else stored
    return weight[index].detach().float()


def _text(model: Any, tokens: Any, contexts: Any, member: int) -> str:
    row, position = int(contexts.sequence[member]), int(contexts.position[member])
    ids = tokens[row, max(0, position - 12) : position + 1].tolist()
    if model.tokenizer is None:
        return " ".join(map(str, ids))
    return f"{model.tokenizer.decode(ids[:-1])}⟦{model.tokenizer.decode(ids[-1:])}⟧".replace("\n", " ")
