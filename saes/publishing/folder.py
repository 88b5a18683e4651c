"""``interp sae publish``: a folder with an SAE in a folder of its own, its figures, and a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from interp.files.writing import atomic_path, write_json
from saes.convert import write
from saes.publishing.card import card
from saes.publishing.identity import identity_of
from saes.sae import SAE

EVALUATION = "evaluation.json"
_CHECKED_ROWS = 64


def check_wanted(out: Path, license: str) -> None:
    """What can be refused before an SAE is measured: raises ValueError for a folder with files, or no license."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; choose a new folder")
    if not license.strip():
        raise ValueError("give a license, such as mit or cc-by-4.0: without one nobody may use what is published")


def publish(
    sae: SAE,
    folder: str | Path,
    *,
    evaluation: Mapping[str, Any],
    license: str,
    repo: str = "OWNER/NAME",
    form: str = "saelens",
) -> Path:
    """Write ``folder/README.md``, and the SAE with its ``evaluation.json`` into a folder of it that its site names.

    What was written is read again and compared before the card is written.

    Args:
        sae: It must say its site.
        folder: New or empty.
        evaluation: What ``interp eval --save`` wrote of this SAE.
        license: For the card's field ``license``, such as ``mit`` or ``cc-by-4.0``.
        repo: Where it is to be published, for the lines that load it.
        form: ``saelens``, which SAELens loads from the hub, or ``deepfield`` for what SAELens cannot hold.

    Returns:
        The SAE's folder.

    Raises:
        ValueError: the folder is not empty, the evaluation is of another SAE, or SAELens cannot hold it.

    Example:
        >>> import interp, saes, torch
        >>> from saes.publishing import identity_of, publish
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=1_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> evaluation = {"sae": identity_of(sae), **saes.evaluate(sae, model, rows).to_json()}
        >>> inside = publish(sae, "published", evaluation=evaluation, license="mit", repo="me/my-sae")
        >>> inside.as_posix(), sorted(each.name for each in inside.iterdir())
        ('published/blocks.2.hook_resid_post', ['cfg.json', 'evaluation.json', 'sae_weights.safetensors'])
    """
    out = Path(folder)
    check_wanted(out, license)
    if form not in ("saelens", "deepfield"):
        raise ValueError(f"cannot publish as {form!r}; there are saelens and deepfield")
    if sae.site is None:
        raise ValueError("this SAE does not say which site it belongs to; pass --site, so that others know where it is")
    _check_evaluation(evaluation, sae)
    inside, kept = out / _folder_name(sae), sae.provenance
    sae.provenance = _without_paths(kept)
    try:
        _write_all(sae, out, inside, evaluation, license=license, repo=repo, form=form)
    finally:
        sae.provenance = kept
    return inside


def _write_all(
    sae: SAE, out: Path, inside: Path, evaluation: Mapping[str, Any], *, license: str, repo: str, form: str
) -> None:
    if form == "saelens":
        try:
            write(sae, "saelens", inside)
        except ValueError as error:
            raise ValueError(f"{error}; publish it with --format deepfield, which SAE.load reads") from error
    else:
        sae.save(inside)
    _check_written(sae, inside)
    write_json(inside / EVALUATION, dict(evaluation))
    text = card(sae, evaluation, license=license, repo=repo, inside=inside.name, form=form)
    with atomic_path(out / "README.md") as partial:
        partial.write_text(text, encoding="utf-8")


def _without_paths(value: Any) -> Any:
    """Provenance with paths of this machine cut to their last part."""
    if isinstance(value, dict):
        return {key: _without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _folder_name(sae: SAE) -> str:
    """A site as a part of a path: ``blocks.3.attn.hook_z.head5``."""
    return str(sae.site).replace("[", ".head").replace("]", "")


def _check_evaluation(evaluation: Mapping[str, Any], sae: SAE) -> None:
    """Figures of another SAE, or of this one elsewhere, are not this one's."""
    said, wanted = evaluation.get("sae"), identity_of(sae)
    if not isinstance(said, Mapping):
        raise ValueError("the evaluation does not say which SAE it is of; write it again with `interp eval SAE --save`")
    for name, value in wanted.items():
        if said.get(name) != value:
            found = said.get(name)
            raise ValueError(f"the evaluation is of another SAE: its {name} is {found!r}, this one's {value!r}")
    for name in ("fvu", "l0", "ce_recovered_zero", "tokens", "documents"):
        if name not in evaluation:
            raise ValueError(f"the evaluation lacks {name}; write it again with `interp eval SAE --save`")


@torch.no_grad()
def _check_written(sae: SAE, inside: Path) -> None:
    again = SAE.load(inside)
    dtype = sae.W_enc.dtype
    x = torch.randn(_CHECKED_ROWS, sae.d_in, generator=torch.Generator().manual_seed(0)).to(dtype)
    scale = sae.W_enc.detach().cpu().float().norm(dim=0).mean().clamp_min(1e-12)
    for rows in (x, x / scale.to(dtype)):
        ours, theirs = sae(rows.to(sae.W_enc.device)).cpu(), again(rows)
        tolerance = 100 * torch.finfo(dtype).eps
        if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * float(ours.abs().max())):
            raise AssertionError(f"what was written in {inside} is another SAE")
    assert (again.site, again.target_site) == (sae.site, sae.target_site)
