"""``interp doctor``: what is installed, what it runs on, what is wrong, and what loads without a network."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cyclopts import App

from interp.terminal.answers import answer
from interp.terminal.help_text import examples

if TYPE_CHECKING:
    from interp.doctor import Diagnosis, ModelFacts

app = App(
    name="doctor",
    help="Versions, devices, name clashes, cache folders, and what loads without a network.",
    help_epilogue=examples(
        "interp doctor",
        "interp doctor gpt2 --json",
    ),
)


@app.default
def doctor(
    model: str | None = None,
    /,
    *,
    revision: str | None = None,
) -> int:
    """Look at this installation, without asking the network; exit status 1 when a name clash is found.

    Parameters
    ----------
    model
        Look at this model instead: its sizes, and whether a BOS token begins its texts.
    revision
        Of the model.
    """
    from interp.doctor import diagnose, examine

    if model is not None:
        facts = examine(model, revision=revision)
        answer(facts)
        print(_told(facts))
        return 0
    if revision is not None:
        raise ValueError(f"revision {revision!r} of which model? Name it: interp doctor MODEL --revision {revision}")

    diagnosis = diagnose()
    answer(diagnosis)
    _print(diagnosis)
    return 1 if diagnosis.clashes else 0


def _told(facts: "ModelFacts") -> str:
    begins = "with no BOS token" if facts.bos is None else f"with {facts.bos!r} (token {facts.bos_id})"
    return (
        f"{facts.name}{'' if facts.revision is None else f' at {facts.revision}'} is a {facts.architecture} of"
        f" {facts.layers} blocks and {facts.d_model} dimensions, a context of {facts.context:,} and"
        f" {facts.vocabulary:,} tokens.\nA text begins {begins}, as its published tokenizer has it: in model.tokenizer,"
        " model.to_tokens, texts given to interp.capture, and rows of interp cache unless --bos says otherwise."
    )


def _print(diagnosis: "Diagnosis") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)

    def show(title: str, header: str, rows: Iterable[tuple[str, ...]]) -> None:
        table = Table(*header.split(","), title=title, title_justify="left", show_edge=False)
        for column in table.columns:
            column.overflow = "fold"  # a path cut short is of no use
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table, "")

    packages = [(name, version or "missing") for name, version in diagnosis.packages.items()]
    show("Versions", "package,version", [("python", f"{diagnosis.python} on {diagnosis.system}"), *packages])
    devices = [(d.name, d.description, _size(d.memory_bytes), _size(d.free_bytes)) for d in diagnosis.devices]
    show("Devices", "device,what,memory,free", devices)
    caches = [(c.holds, c.path, _size(c.used_bytes), _size(c.free_bytes)) for c in diagnosis.caches]
    show("Cache folders", "for,folder,used,free on disk", caches)
    models = [(name, " ".join(revisions)) for name, revisions in diagnosis.loadable_offline.items()]
    show("Loads without a network (besides any local folder or GGUF file)", "model,revisions", models)
    hub = {True: "not asked, because HF_HUB_OFFLINE is set", False: "asked for models that are not here", None: "?"}
    console.print(f"model hub: {hub[diagnosis.hub_offline]}")
    # Not wrapped to the terminal's width: the fix is there to be copied.
    for problem in diagnosis.problems:
        console.print(Text(f"could not look at {problem}", style="yellow"), soft_wrap=True)
    for name, others in diagnosis.clashes.items():
        console.print(Text(f"name clash: {name!r} is also installed by {', '.join(others)}", style="red"))
    console.print(Text(f"fix: {diagnosis.fix}" if diagnosis.fix else "name clashes: none"), soft_wrap=True)


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
