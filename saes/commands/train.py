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
def train(*, store: Path, options: Annotated[TrainConfig, Parameter(name="*")], config: Path | None = None) -> None:
    """Train, or continue.

    Parameters
    ----------
    store
        Folder that `interp cache` wrote.
    config
        TOML file with any of these options (site = "blocks.2.hook_resid_post", d-sae = 8192); flags override it.
    """
    from interp import ActivationStore
    from saes.training import train as run

    run(options, ActivationStore(store), progress=True)
    print(f"SAE in {options.out}; measure it with: interp eval {options.out} --data PATH")
