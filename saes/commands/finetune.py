"""``interp finetune``: a trained SAE's last phase, on the loss of the model itself."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from saes.commands.options import TextOptions
from saes.training.finetune_config import FinetuneConfig

app = App(name="finetune", help="Fine-tune an SAE end to end, through the model. The same command again resumes.")


@app.default
def finetune(
    sae: Path,
    /,
    *,
    data: Path,
    options: Annotated[FinetuneConfig, Parameter(name="*")],
    text: Annotated[TextOptions, Parameter(name="*")] = TextOptions(),
) -> None:
    """Fine-tune, or continue.

    Parameters
    ----------
    sae
        Folder of the SAE.
    data
        Text to train on, as for `interp cache`.
    """
    from saes.commands.inputs import open_inputs
    from saes.training.finetuning import finetune as run

    with open_inputs(sae, data=data, tokens=options.tokens, options=text) as inputs:
        run(inputs.sae, inputs.model, inputs.rows, options, progress=True)
    print(f"SAE in {options.out}; measure it with: interp eval {options.out} --data PATH")
