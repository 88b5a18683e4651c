"""``interp train``: sparse autoencoders from an activation store."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.config import Toml

from saes.train_config import TrainConfig


def _options_file(app: Any, commands: tuple[str, ...], arguments: Any) -> None:
    """Fill options that the command line leaves out from the TOML file that it names with ``--config``."""
    for argument in arguments.filter_by(has_tokens=True):
        if argument.name == "--config":
            path = Path(argument.tokens[0].value)
            if not path.is_file():
                raise ValueError(f"--config {path}: there is no such file")
            Toml(path, use_commands_as_keys=False)(app, commands, arguments)


app = App(
    name="train",
    help="Train a sparse autoencoder on cached activations. The same command again resumes.",
    config=_options_file,
)


@app.default
def train(
    *,
    store: Path,
    options: Annotated[TrainConfig, Parameter(name="*")],
    sweep: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    config: Path | None = None,
) -> None:
    """Train, or continue.

    Parameters
    ----------
    store
        Folder that `interp cache` wrote.
    sweep
        Several SAEs in one pass over the data, each in a folder below --out: k=16,32 seed=0,1 are four.
    config
        TOML file with any of these options (site = "blocks.2.hook_resid_post", d-sae = 8192); flags override it.
    """
    from interp import ActivationStore
    from saes.sweep import expand
    from saes.training import train_many

    runs = expand(options, sweep or [])
    train_many(runs, ActivationStore(store), progress=True)
    for run in runs:
        print(f"SAE in {run.out}; measure it with: interp eval {run.out} --data PATH")
