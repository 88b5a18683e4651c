"""Every release of SAELens's directory: does it load, where, at which scale, and is it measured as its own tool has it.

    python benchmarks/dictionaries.py                      # small files in each release's layout, under its own names
    python benchmarks/dictionaries.py --all                # every dictionary; prints those that do not load
    python benchmarks/dictionaries.py --hub                # the real files of one dictionary a release
    python benchmarks/dictionaries.py --hub --data TEXT    # and their figures on the real models

Without --hub it needs no network. The first table measures each layout on a tiny model of its family: FVU and L0 as
`interp eval` has them against the tool's own arithmetic between the tensors of the Hugging Face model. The second
loads a dictionary of each release by its name in the directory, from files with the names that its repository has.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "0" if "--hub" in sys.argv else "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from huggingface_hub import constants

from saes import SAE
from saes.commands.inputs import open_inputs
from saes.commands.options import MeasuredText
from saes.evaluation.report import evaluate
from saes.places import load_any
from saes.published.releases import Published, of_name, table
from tests.saes.convert import layouts
from tests.saes.convert.by_hand import Weights, saved_model, token_ids
from tests.saes.convert.layouts import PLACED

COMMIT = "a" * 40
_RESIDUAL = "gemma_scope, residual"
_GEMMA = {"res": _RESIDUAL, "att": "gemma_scope, attention", "mlp": "gemma_scope, MLP"}
_GEMMA_2 = {
    "resid_post": "gemma_scope 2, resid_post",
    "attn_out": "gemma_scope 2, attn_out_all",
    "mlp_out": "gemma_scope 2, mlp_out",
    "transcoder": "gemma_scope 2, transcoder",
}
_BY_LOADER = {
    "sae_lens": "saelens, residual",
    "gemma_2_transcoder": "gemma_scope, transcoder",
    "dictionary_learning_1": "dictionary_learning, SAEBench",
    "qwen_scope": "qwen_scope",
    "llama_scope": "llama_scope",
    "llama_scope_r1_distill": "llama_scope, R1",
    "mwhanna_transcoder": "circuit_tracer, no configuration",
    "goodfire": "goodfire",
    "deepseek_r1": "deepseek_r1",
    "connor_rob_hook_z": "hook_z (Kissane et al.)",
}
_KINDS = {"r": "hook_resid_post", "a": "hook_attn_out", "m": "hook_mlp_out"}


def layout_of(entry: Published) -> str | None:
    """The layout of ``PLACED`` that a dictionary of the directory has; None where none is read."""
    if entry.loader == "gemma_2":
        if "embedding" in entry.path:
            return "gemma_scope, embedding"
        return _GEMMA[re.search(r"-(res|att|mlp)$", entry.repo)[1]]  # type: ignore[index]
    if entry.loader == "gemma_3":
        kind = entry.path.split("/")[0].removesuffix("_all")
        return _GEMMA_2[kind] + (" with affine skip" if entry.path.endswith("_affine") else "")
    return _BY_LOADER.get(entry.loader)


def place_of(entry: Published) -> tuple[str, str | None]:
    """Site and target of a dictionary, from its names in the directory alone."""
    words = f"{entry.sae_id} {entry.path}"
    numbers = re.findall(r"(?:layer_?|blocks\.|\bl)(\d+)", words)
    layer = int(numbers[0]) if numbers else 0
    if "embedding" in entry.path:
        return "blocks.0.hook_resid_pre", None
    if entry.loader == "gemma_2":
        kind = {"res": "hook_resid_post", "att": "attn.hook_z", "mlp": "hook_mlp_out"}[entry.repo[-3:]]
        return f"blocks.{layer}.{kind}", None
    if entry.loader == "gemma_3":
        kinds = {"resid_post": "hook_resid_post", "attn_out": "attn.hook_z", "mlp_out": "hook_mlp_out"}
        kind = entry.path.split("/")[0].removesuffix("_all")
        if kind == "transcoder":
            return f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out"
        return f"blocks.{layer}.{kinds[kind]}", None
    if entry.loader == "gemma_2_transcoder":
        return f"blocks.{layer}.ln2.hook_normalized", f"blocks.{layer}.hook_mlp_out"
    if entry.loader == "mwhanna_transcoder":
        return f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out"
    if entry.loader in ("llama_scope", "llama_scope_r1_distill"):
        found = re.match(r"l(\d+)([ram])", entry.sae_id)
        assert found is not None
        return f"blocks.{found[1]}.{_KINDS[found[2]]}", None
    if entry.loader == "connor_rob_hook_z":
        return f"blocks.{layer}.attn.hook_z", None
    hook = re.search(r"blocks\.\d+\.(?:attn\.)?hook_[a-z]+(?:_[a-z]+)?", entry.sae_id)
    return (hook[0] if hook else f"blocks.{layer}.hook_resid_post"), None


def write_files(entry: Published, snapshot: Path, w: Weights) -> None:
    """A small dictionary in the release's layout, at the path that it has in its repository."""
    site, _ = place_of(entry)
    layer = int(re.search(r"\d+", site)[0])  # type: ignore[index]
    write = {
        "sae_lens": partial(
            layouts.saelens,
            architecture="standard",
            metadata={"hook_name": site, "model_name": entry.model},
            **({} if entry.factor is None else {"normalize_activations": "expected_average_only_in"}),
        ),
        "dictionary_learning_1": partial(layouts.dictionary_learning, layer=layer, lm_name=entry.model),
        "llama_scope": partial(_llama_scope, hook=site),
        "llama_scope_r1_distill": partial(_llama_scope, hook=site, later=True),
        "connor_rob_hook_z": partial(_hook_z, hook=site, name=Path(entry.path).name),
    }.get(entry.loader, PLACED[layout_of(entry) or _RESIDUAL].write)
    with tempfile.TemporaryDirectory() as scratch:
        written, there = write(Path(scratch), w), snapshot / entry.path
        there.parent.mkdir(parents=True, exist_ok=True)
        if written.is_dir():
            shutil.copytree(written, there, dirs_exist_ok=True)
            return
        shutil.copy(written, there)
        for beside in written.parent.glob("*.json"):
            shutil.copy(beside, there.parent)


def _llama_scope(root: Path, w: Weights, *, hook: str, later: bool = False) -> Path:
    folder = (layouts.llama_scope_r1 if later else layouts.llama_scope)(root, w)
    config = folder / ("config.json" if later else "hyperparams.json")
    config.write_text(config.read_text().replace(layouts.RESID_POST, hook))
    return folder


def _hook_z(root: Path, w: Weights, *, hook: str, name: str) -> Path:
    return layouts.lone(root, w, path=name, names=layouts.PLAIN, transposed=False, cfg={"act_name": hook})


@contextmanager
def played_cache() -> Iterator[Path]:
    """An empty cache of the hub in place of the user's."""
    before = constants.HF_HUB_CACHE
    with tempfile.TemporaryDirectory() as folder:
        constants.HF_HUB_CACHE = folder
        try:
            yield Path(folder)
        finally:
            constants.HF_HUB_CACHE = before


def repository(cache: Path, repo: str) -> Path:
    """A repository of the cache, at its main branch."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(COMMIT)
    return place / "snapshots" / COMMIT


def scale_of(sae: SAE, w: Weights | None) -> str:
    """How inputs of another scale than the raw activation's are taken: by what the encoder was multiplied."""
    if sae.layer_norm:
        return "layer norm"
    if w is None:
        return ""
    factor = float(sae.W_enc.detach().norm() / w["W_enc"].norm())
    return "raw" if abs(factor - 1) < 1e-4 else f"times {factor:.3g}"


def first_of(release: str) -> Published:
    """Of a release the dictionary that is looked at: its first."""
    entry = of_name(f"{release}/{next(iter(table()['releases'][release]['saes']))}")
    assert entry is not None
    return entry


def row(entry: Published, *, cache: Path | None, weights: Weights | None, data: Path | None = None) -> list[str]:
    """One dictionary: from small files in ``cache``, or, where that is None, from the hub."""
    name, count = f"{entry.release}/{entry.sae_id}", len(table()["releases"][entry.release]["saes"])
    shown = [entry.release, entry.repo, f"{count:,}", layout_of(entry) or entry.loader]
    published = "" if entry.l0 is None else f"{entry.l0:g}"
    try:
        if cache is not None and weights is not None:
            write_files(entry, repository(cache, entry.repo), weights)
        sae = load_any(name)
    except ValueError as error:
        reason = re.sub(r"\S*/snapshots/\w+/\S*: ", "", str(error).split(entry.sae_id, 1)[-1])
        return [*shown, "", "", published, f"refused: {reason.split(' (', 1)[0].strip(' :').removeprefix('is ')}"]
    assert isinstance(sae, SAE)
    site, target = place_of(entry)
    where = f"`{sae.site}`" + (f" → `{sae.target_site}`" if sae.target_site else "")
    verdict = "loads at its place" if (sae.site, sae.target_site) == (site, target) else f"at another place than {site}"
    if data is not None:
        verdict += f"; {_measured(name, data)}"
    return [*shown, where, scale_of(sae, weights), published, verdict]


def _measured(name: str, data: Path) -> str:
    """Figures of a real dictionary on its real model."""
    try:
        with open_inputs(Path(name), data=data, tokens=20_000) as inputs:
            found = evaluate(
                inputs.sae,
                inputs.model,
                inputs.rows,
                max_tokens=20_000,
                first_position=inputs.first_position,
                drop_tokens=inputs.drop_tokens,
            )
    except ValueError as error:
        return f"not measured: {error}"
    entry = of_name(name)
    said = "" if entry is None or entry.variance_explained is None else f" (1 - {entry.variance_explained:g} published)"
    return f"FVU {found.fvu}{said}, L0 {found.l0}, CE recovered {found.ce_recovered_zero}"


RELEASES = ["release", "repository", "dictionaries", "layout", "site", "scale", "L0 published", "verdict"]
LAYOUTS = ["layout", "tiny model", "FVU", "FVU by the tool's arithmetic", "L0", "L0 by it", "CE recovered", "verdict"]


def layout_rows() -> list[list[str]]:
    """Every layout that a release has, measured on the tiny model of its family."""
    names = {name: None for release in table()["releases"] if (name := layout_of(first_of(release))) is not None}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.save(folder / "ids.npy", token_ids())
        models: dict[str, Path] = {}
        for number, name in enumerate(names):
            layout = PLACED[name]
            if layout.model not in models:
                models[layout.model] = saved_model(layout.model, folder)
            options = MeasuredText(
                model=str(models[layout.model]), context=token_ids().shape[1], bos="never", first_position=0
            )
            path = layout.write(folder / str(number), layout.weights())
            with open_inputs(path, data=folder / "ids.npy", tokens=token_ids().size, options=options) as inputs:
                found = evaluate(inputs.sae, inputs.model, inputs.rows)
            with torch.no_grad():
                latents = layout.compute(layout.weights(), layout.between()[0])[0]
            fvu, l0 = layout.fvu(), float((latents > 0).sum(-1).float().mean())
            same = abs(found.fvu.value - fvu) < 1e-3 * fvu and abs(found.l0.value - l0) < 0.05
            figures = [f"{found.fvu.value:.3f}", f"{fvu:.3f}", f"{found.l0.value:.1f}", f"{l0:.1f}"]
            recovered = f"{found.ce_recovered_zero.value:.2f}"
            rows.append([name, layout.model, *figures, recovered, "same" if same else "another"])
    return rows


def small_weights() -> Weights:
    """Of every small dictionary; Qwen-Scope's k goes up to 100, so they have twice as many latents as elsewhere."""
    few = PLACED[_RESIDUAL].weights()
    return {name: w if name == "b_dec" else torch.cat([w, w], -1 if name != "W_dec" else 0) for name, w in few.items()}


def release_rows() -> list[list[str]]:
    """The first dictionary of every release, from small files."""
    weights = small_weights()
    with played_cache() as cache:
        return [row(first_of(release), cache=cache, weights=weights) for release in table()["releases"]]


def print_all() -> None:
    """Load every dictionary, a release at a time, and print those that do not load at their places."""
    weights, loaded, total = small_weights(), 0, 0
    for release, content in table()["releases"].items():
        with played_cache() as cache:
            for sae_id in content["saes"]:
                entry = of_name(f"{release}/{sae_id}")
                assert entry is not None
                line = row(entry, cache=cache, weights=weights)
                total += 1
                loaded += line[-1].startswith("loads")
                if not line[-1].startswith("loads"):
                    print(f"{release}/{sae_id}: {line[-1]}")
                shutil.rmtree(repository(cache, entry.repo), ignore_errors=True)
    print(f"{loaded:,} of {total:,} dictionaries load at their places")


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(rows: list[list[str]]) -> str:
    """How many releases load."""
    loaded = [line for line in rows if line[-1].startswith("loads")]
    return f"The first dictionary of {len(loaded)} of {len(rows)} releases loads at its place."


def main() -> None:
    """Print both tables, or the second from the hub."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every dictionary of the directory")
    parser.add_argument("--hub", action="store_true", help="load real files, of one dictionary a release")
    parser.add_argument("--data", type=Path, help="measure them on this text")
    parser.add_argument("releases", nargs="*", help="only these")
    options: Any = parser.parse_args()
    if options.hub:
        for release in options.releases or table()["releases"]:
            print(" | ".join(row(first_of(release), cache=None, weights=None, data=options.data)), flush=True)
        return
    if options.all:
        print_all()
        return
    rows = release_rows()
    print(f"{markdown(LAYOUTS, layout_rows())}\n\n{summary(rows)}\n\n{markdown(RELEASES, rows)}")


if __name__ == "__main__":
    main()
