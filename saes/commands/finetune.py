"""``interp finetune``: a trained SAE's last phase, on the loss of the model itself."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from saes.finetune_config import FinetuneConfig

app = App(name="finetune", help="Fine-tune an SAE end to end, through the model. The same command again resumes.")


@app.default
def finetune(
    sae: Path,
    /,
    *,
    data: Path,
    options: Annotated[FinetuneConfig, Parameter(name="*")],
    model: str | None = None,
    revision: str | None = None,
    context: int | None = None,
    packing: Literal["packed", "document"] | None = None,
    bos: Literal["model", "row", "document", "never"] | None = None,
) -> None:
    """Fine-tune, or continue.

    Parameters
    ----------
    sae
        Folder of the SAE.
    data
        Text to train on, as for `interp cache`.
    model
        By default the model whose activations it was trained on.
    revision
        Training checkpoint of the model; by default the one it was trained on.
    context
        Tokens a row; by default as in training, else the model's context, at most 512.
    packing
        As for `interp cache`; by default as in training.
    bos
        As for `interp cache`; by default as in training.
    """
    from saes.finetune import finetune as run
    from saes.sae_inputs import open_inputs

    with open_inputs(
        sae,
        data=data,
        tokens=options.tokens,
        model=model,
        revision=revision,
        context=context,
        packing=packing,
        bos=bos,
    ) as inputs:
        run(inputs.sae, inputs.model, inputs.rows, options, progress=True)
    print(f"SAE in {options.out}; measure it with: interp eval {options.out} --data PATH")
