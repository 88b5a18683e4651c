"""``interp sae``: ``convert`` between our format and other tools'; ``features`` shows what latents respond to."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from interp.commands.options import OutFolder
from saes.commands.features import features

app = App(name="sae", help="Work with saved SAEs.")
app.command(features)


@app.command
def convert(
    source: Path,
    /,
    *,
    to: Literal["deepfield", "saelens", "sparsify", "dictionary_learning"],
    out: OutFolder,
    site: str | None = None,
    target_site: str | None = None,
) -> None:
    """Read an SAE of any known format and write it for another tool.

    Parameters
    ----------
    source
        Folder (or file) of an SAE, of any format in docs/formats.md.
    to
        Whose format to write.
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
    from saes.sae import SAE

    sae = SAE.load(source, site=site, target_site=target_site)
    if to == "deepfield":
        sae.save(out)
    else:
        write(sae, to, out)
    print(f"{sae.activation.name} SAE, {sae.d_in} to {sae.d_sae} latents, written for {to} in {out}")
