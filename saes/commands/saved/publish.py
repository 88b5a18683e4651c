"""``interp sae publish``: a folder that others can load, with a model card, and perhaps onto the hub."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from interp.commands.options import OutFolder
from interp.counts import Count
from interp.terminal.answers import answer
from interp.terminal.mode import say_plan
from saes.commands.options import MeasuredText


def publish(
    sae: Path,
    /,
    *,
    to: OutFolder,
    license: str,
    evaluation: Path | None = None,
    data: Path | None = None,
    tokens: Count = 100_000,
    text: Annotated[MeasuredText, Parameter(name="*")] = MeasuredText(),
    push: str | None = None,
    private: bool = False,
    format: Literal["saelens", "deepfield"] = "saelens",
) -> None:
    """Write a folder with an SAE, its figures and a model card, which SAE.load and SAELens read; and push it.

    Parameters
    ----------
    sae
        Folder or hub id of an SAE of any format in docs/formats.md.
    to
        Folder to write; it must be new or empty.
    license
        For the model card, such as mit or cc-by-4.0.
    evaluation
        JSON that `interp eval SAE --save` wrote of this SAE; else it is measured, on --data.
    data
        Text to measure it on, as for `interp eval`.
    tokens
        How many to measure on.
    push
        Repository of the hub to upload to, owner/name, with the token of `hf auth login` or HF_TOKEN.
    private
        Make the repository private, where it is new.
    format
        deepfield for an SAE that SAELens cannot hold.
    """
    if (evaluation is None) == (data is None):
        raise ValueError("give --evaluation, the JSON that `interp eval SAE --save` wrote, or --data to measure it on")

    from interp.files.outside import read_json
    from saes.commands.inputs import open_inputs
    from saes.evaluation.report import evaluate
    from saes.publishing.folder import check_wanted
    from saes.publishing.folder import publish as write_folder
    from saes.publishing.identity import identity_of
    from saes.publishing.push import check_repository
    from saes.publishing.push import push as upload
    from saes.sae import SAE

    check_wanted(to, license)
    if push is not None:
        check_repository(push)
    if evaluation is not None:
        loaded, figures = SAE.load(sae, site=text.site, target_site=text.target_site), read_json(evaluation)
    else:
        assert data is not None
        with open_inputs(sae, data=data, tokens=tokens, options=text) as inputs:
            say_plan(f"measure {sae} on {inputs.model_name}: {inputs.planned(tokens)}")
            report = evaluate(
                inputs.sae,
                inputs.model,
                inputs.rows,
                max_tokens=tokens,
                first_position=inputs.first_position,
                drop_tokens=inputs.drop_tokens,
            )
            loaded, settings = inputs.sae.to("cpu"), inputs.settings
        figures = report.to_json() | {"text": settings, "data": data.name, "sae": identity_of(loaded)}
    inside = write_folder(loaded, to, evaluation=figures, license=license, repo=push or "OWNER/NAME", form=format)
    fvu, l0 = (figures[name]["value"] for name in ("fvu", "l0"))
    print(f"{loaded.activation.name} SAE at {loaded.site}: FVU {fvu:.4g}, L0 {l0:.4g}; files in {inside}")
    address = None if push is None else upload(to, push, private=private)
    answer({"folder": inside, "fvu": fvu, "l0": l0, "pushed": address})
    if address is not None:
        print(f"pushed: {address}")
