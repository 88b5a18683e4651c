"""``interp sae``: ``convert`` between formats, ``features`` that latents respond to, ``explain`` them,
``orthogonality`` of several, ``publish`` for others."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from interp.commands.options import OutFolder
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from saes.commands.saved.explain import explain
from saes.commands.saved.features import features
from saes.commands.saved.orthogonality import orthogonality
from saes.commands.saved.publish import publish

app = App(
    name="sae",
    help="Work with saved SAEs.",
    help_epilogue=examples(
        "interp sae features sae --data heldout.txt --html features.html",
        "interp sae orthogonality sae gpt2-small-res-jb/blocks.8.hook_resid_pre --data heldout.txt --html page.html",
        "interp sae explain sae --data heldout.txt --judge local --judge-model smollm2-135m --out explained",
        "interp sae convert sae --to saelens --out sae_for_saelens",
        "interp sae publish sae --to folder --license mit --data heldout.txt",
    ),
)
app.command(features)
app.command(orthogonality)
app.command(explain)
app.command(publish)


@app.command
def convert(
    source: Path,
    /,
    *,
    to: Literal[
        "deepfield", "saelens", "sparsify", "dictionary_learning", "circuit_tracer", "gemma_scope", "llamascopium"
    ],
    out: OutFolder,
    site: str | None = None,
    target_site: str | None = None,
) -> None:
    """Read an SAE, or a dictionary over several places, of any known format and write it for another tool.

    Parameters
    ----------
    source
        Folder (or file) of an SAE, or of a dictionary over several places, of any format in docs/formats.md.
    to
        Whose format to write: the last three hold dictionaries over several places.
    out
        Folder to write.
    site
        Where the SAE reads, such as blocks.3.hook_resid_post; by default what its files say.
    target_site
        Where what a transcoder reconstructs is; by default what its files say.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; choose a new folder")

    from saes.convert import write
    from saes.places import load_any, save_dictionary, write_circuit_tracer, write_gemma_scope, write_llamascopium
    from saes.sae import SAE

    sae = load_any(source, site=site, target_site=target_site)
    over_places = {
        "deepfield": save_dictionary,
        "circuit_tracer": write_circuit_tracer,
        "gemma_scope": write_gemma_scope,
        "llamascopium": write_llamascopium,
    }
    if not isinstance(sae, SAE):
        if to not in over_places:
            allowed = ", ".join(over_places)
            raise ValueError(f"{source} holds a {sae.layout.name}, which {to} cannot hold; these may: {allowed}")
        over_places[to](sae, out)
        answer({"folder": out, "format": to, "activation": sae.activation.name, "kind": sae.layout.kind})
        print(f"{sae.activation.name} {sae.layout.name} over {len(sae.layout.reads)} places, written for {to} in {out}")
        return
    if to == "deepfield":
        sae.save(out)
    elif to in over_places:
        raise ValueError(f"{source} holds an SAE of one site; {to} is written of dictionaries over several places")
    else:
        write(sae, to, out)
    answer({"folder": out, "format": to, "activation": sae.activation.name, "d_in": sae.d_in, "d_sae": sae.d_sae})
    print(f"{sae.activation.name} SAE, {sae.d_in} to {sae.d_sae} latents, written for {to} in {out}")
