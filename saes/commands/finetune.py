"""``interp finetune``: a trained SAE's last phase, on the loss of the model itself."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan
from saes.commands.options import TextOptions
from saes.training.finetune_config import FinetuneConfig

app = App(
    name="finetune",
    help="Fine-tune an SAE end to end, through the model. The same command again resumes.",
    help_epilogue=examples(
        "interp finetune sae --data my_text/ --out tuned",
    ),
)


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

    Positions and tokens that the SAE was not trained on (train --drop-first, --drop-special) are left out.

    Parameters
    ----------
    sae
        Folder of the SAE.
    data
        Text to train on, as for `interp cache`.
    """
    if options.out.resolve() == sae.resolve():
        raise ValueError(f"--out is {options.out}, the folder of the SAE itself; choose another")
    from saes.commands.inputs import open_inputs
    from saes.training.finetuning import finetune as run

    with open_inputs(sae, data=data, tokens=options.tokens, options=text) as inputs:
        rows, context = inputs.rows.ids.shape
        taken = []
        if inputs.first_position > options.first_position:
            options = replace(options, first_position=inputs.first_position)
            taken.append(f"--first-position {options.first_position}")
        if inputs.drop_tokens and not options.drop_tokens:
            options = replace(options, drop_tokens=inputs.drop_tokens)
            taken += [f"--drop-tokens {token}" for token in options.drop_tokens]
        if taken:
            print(f"as in the training of {sae}: {' '.join(taken)}", file=sys.stderr)
        say_plan(f"{options.tokens:,} tokens from {rows:,} rows of {context}, by {options.loss}")
        run(inputs.sae, inputs.model, inputs.rows, options, progress=True)
    answer({"sae": options.out})
    print(f"SAE in {options.out}; measure it with: interp eval {options.out} --data PATH")
