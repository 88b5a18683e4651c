"""``interp train``: sparse autoencoders from an activation store, or live from a model."""

import json
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.config import Toml

from interp.counts import Count
from interp.files.outside import reading
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan
from saes.training.config import TrainConfig, check

if TYPE_CHECKING:
    from interp.store.live import LiveActivations


MANY_PASSES = 10
"""Over the same activations, above which the command warns."""


def _options_file(app: Any, commands: tuple[str, ...], arguments: Any) -> None:
    """Fill options that the command line leaves out from the TOML file that it names with ``--config``."""
    for argument in arguments.filter_by(has_tokens=True):
        if argument.name == "--config":
            path = Path(argument.tokens[0].value)
            if not path.is_file():
                raise ValueError(f"--config {path}: there is no such file")
            with reading(f"--config {path}", "is not a TOML file of options"):
                tomllib.loads(path.read_bytes().decode())
            Toml(path, use_commands_as_keys=False)(app, commands, arguments)


app = App(
    name="train",
    help="Train a sparse autoencoder on a model's activations. The same command again resumes.",
    config=_options_file,
    help_epilogue=examples(
        "interp train --store acts --site blocks.3.hook_resid_post --k 32 --out sae",
        "interp train --model gpt2 --data my_text/ --site blocks.6.hook_mlp_out --k 32 --out sae",
        "interp train --store acts --site blocks.3.hook_resid_post --sweep k=16,32 --out all",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Live:
    """Activations straight from a model, in place of a store."""

    model: str | None = None
    """As for `interp cache`."""
    data: str | None = None
    """As for `interp cache`; as much of it as --tokens asks for, again where that is more than there is."""
    revision: str | None = None
    """Training checkpoint of the model."""
    context: int | None = None
    """Tokens a row; by default the model's context, at most 512."""
    packing: Literal["packed", "document"] = "packed"
    """As for `interp cache`."""
    bos: Literal["model", "row", "document", "never"] = "model"
    """As for `interp cache`."""
    drop_special: bool = False
    """Leave out BOS, separators and other special tokens."""
    drop_first: int = 0
    """Leave out that many positions of every row."""
    buffer_tokens: Count = 262_144
    """Activations that are held and shuffled at a time."""


@app.default
def train(
    *,
    options: Annotated[TrainConfig, Parameter(name="*")],
    store: Annotated[list[Path] | None, Parameter(negative="")] = None,
    live: Annotated[Live, Parameter(name="*")] = Live(),
    sweep: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    epochs: float | None = None,
    config: Path | None = None,
) -> None:
    """Train, or continue, from --store, or live from --model and --data.

    An SAE or transcoder has a --site (and --target-site). A --kind of dictionary over several places has --reads, and
    --writes unless it is a crosscoder: names or patterns of the store's sites.

    Parameters
    ----------
    store
        Folder that `interp cache` wrote. Given twice, with two models (or checkpoints) on the same text, places are
        0:SITE and 1:SITE, for a --kind crosscoder.
    sweep
        Several SAEs in one pass over the data, each in a folder below --out: k=16,32 seed=0,1 are four.
    epochs
        Passes over all activations, in place of --tokens.
    config
        TOML file with any of these options (site = "blocks.2.hook_resid_post", d-sae = 8192); flags override it.
    """
    if (store is None) == (live.model is None) or (live.model is None) != (live.data is None):
        raise ValueError("activations come from --store, or from --model together with --data; give one of the two")

    from interp import ActivationStore, processes
    from saes.commands.sweep import expand
    from saes.places.stores import SameRows
    from saes.training.loop import train_all
    from saes.training.plan import plan, with_places
    from saes.training.verdict import read_verdict

    group = processes.current()
    with group.telling_others():
        values = {name: _literal(value) for name, value in options.options.items()}
        runs = expand(replace(options, options=values), sweep or [])
        source: Any
        if store is None:
            source = _live(live, runs, options)
        else:
            stores = [ActivationStore(folder) for folder in store]
            source = SameRows(stores) if len(stores) > 1 else stores[0]
        if epochs is not None:
            runs = [replace(run, tokens=_of_epochs(epochs, run, len(source))) for run in runs]
        for run in runs:
            check(run)
        runs = [with_places(run, source) for run in runs]
        plans = [plan(run, source) for run in runs]
        for its in plans if group.leads else ():
            say_plan("\n".join(its.lines()))
        if group.leads and epochs is None and (passes := plans[0].passes) > MANY_PASSES:
            print(
                f"warning: --tokens {plans[0].tokens} are {passes:.0f} passes over the {len(source):,} activations that"
                " there are, which will be learned by heart: give more text, or say how many passes with --epochs",
                file=sys.stderr,
            )
        train_all(runs, source, progress=True)
    if group.leads:
        verdicts = [read_verdict(run.out) for run in runs]
        answer([{"folder": run.out, "verdict": v and v.to_json()} for run, v in zip(runs, verdicts, strict=True)])
    for run in runs if group.leads else ():
        name = "SAE" if run.kind is None else run.kind
        if (verdict := read_verdict(run.out)) is not None:
            print(f"{run.out}: {verdict}")
            for fault in verdict.faults():
                print(f"warning: {fault}", file=sys.stderr)
        print(f"{name} in {run.out}; measure it with: interp eval {run.out} --data PATH")


def _of_epochs(epochs: float, run: TrainConfig, available: int) -> int:
    """Activations whose steps are so many passes; the last step of each has fewer of them."""
    if not epochs > 0:
        raise ValueError(f"--epochs is {epochs:g}; it must be above 0")
    if run.batch_size < 1:
        return 1  # which is refused where configs are
    return max(1, round(epochs * run.steps_a_pass(available))) * run.batch_size


def _literal(value: Any) -> Any:
    """A number, truth value or list as one: what is typed behind --options.NAME, or is in the file, comes as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return value


def _live(live: Live, runs: list[TrainConfig], options: TrainConfig) -> "LiveActivations":
    """The model's activations; the text is tokenised into the run's folder."""
    from interp import processes
    from interp.models.loading import load_model
    from interp.store.live import LiveActivations
    from interp.store.masks import Masks
    from interp.tokens.for_model import rows_for
    from interp.tokens.token_rows import open_token_rows

    assert live.model is not None
    model = load_model(live.model, revision=live.revision, device=processes.default_device())
    group, folder = processes.current(), options.out / "tokens"
    if group.leads:
        how = {"packing": live.packing, "bos": live.bos}
        rows_for(model, live.data, folder, tokens=options.tokens, context=live.context, **how)
    group.wait_for_all()
    rows = open_token_rows(folder)
    named = {site for run in runs for site in (run.site, run.target_site, *run.reads, *run.writes)}
    sites = {site for site in named if site is not None}
    masks = Masks(drop_special=live.drop_special, drop_first=live.drop_first)
    return LiveActivations(model, rows, sites, buffer_tokens=live.buffer_tokens, masks=masks)
