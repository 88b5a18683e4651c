"""Read the dataset that accompanies arXiv 2508.03616: a folder ``pythia_<size>`` with figures and fits of every layer.

``stats/exp2_pythia_<size>_step<N>`` is what NumPy prints of an array [10 sequences, 4, layers] (top 1, 2, 3 and median
of the magnitudes), in plain or scientific notation. ``params/layer_fit_params_<quantity>.json`` lists a fit a layer.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.files.outside import parse_json, reading
from interp.trajectory.emergence_curve import EmergenceCurve
from interp.trajectory.fitting import Trajectory, fit_all

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TOKEN = re.compile(rf"\[|\]|{_NUMBER}")
_AROUND = re.compile(r"^\s*(?:array\()?|(?:,?\s*dtype=\w+)?\)?\s*$")
_NAMES = ["A", "λ", "γ", "t0", "K"]  # noqa: RUF001  # as the files spell them
QUANTITIES = ("ratio", "top1", "median")


@dataclass(frozen=True, kw_only=True)
class ReleasedFit:
    """A published fit of one layer."""

    curve: EmergenceCurve
    """The curve with its published parameters."""
    r2: float
    """R² as it was published."""
    aic: float
    """AIC as it was published."""


@dataclass(frozen=True, kw_only=True)
class ReleasedModel:
    """One folder ``pythia_<size>``."""

    size: str
    """The model's size as its folder names it, such as 70m."""
    steps: tuple[int, ...]
    """Training steps that were measured, ascending."""
    stats: Float[np.ndarray, "steps sequences 4 layers"]
    """The three largest magnitudes and the median, as they were published."""
    fits: dict[str, list[ReleasedFit]]
    """By quantity (``ratio``, ``top1``, ``median``), where there are any."""
    refused: dict[str, str]
    """File name -> why it was left out (the release has one malformed file)."""

    def series(self, quantity: str = "ratio") -> Float[np.ndarray, "layers steps"]:
        """The ratio of means over sequences, or the mean largest magnitude or median."""
        top, median = self.stats[:, :, 0].mean(1), self.stats[:, :, 3].mean(1)
        return {"ratio": top / median, "top1": top, "median": median}[quantity].T

    def refit(self, quantity: str = "ratio", **options: Any) -> list[Trajectory]:
        """:func:`interp.trajectory.fit` for every layer; ``options`` are those of ``fit_all``."""
        return fit_all(np.array(self.steps, dtype=np.float64), self.series(quantity), **options)


def read_release(folder: str | Path) -> ReleasedModel:
    """Read one model's folder; malformed statistics are left out and named in ``refused``.

    Raises ValueError where the folder is not of that layout, or none of its files can be read.
    """
    folder = Path(folder)
    size = re.fullmatch(r"pythia_(.+)", folder.name)
    files = sorted((folder / "stats").glob("exp2_pythia_*_step*"))
    if size is None or not files:
        raise ValueError(f"{folder} is not a folder pythia_<size> with stats/exp2_pythia_<size>_step<N>")
    read: dict[int, np.ndarray] = {}
    refused: dict[str, str] = {}
    for file in files:
        named = re.fullmatch(rf"exp2_pythia_{re.escape(size[1])}_step(\d+)(\.txt)?", file.name)
        try:
            if named is None:
                raise ValueError(f"its name is not exp2_pythia_{size[1]}_step<N>")
            read[int(named[1])] = read_stats(file)
        except ValueError as error:
            refused[file.name] = str(error)
    shapes = {array.shape for array in read.values()}
    if len(shapes) != 1:
        raise ValueError(f"{folder / 'stats'} holds arrays of {len(shapes)} shapes, not of one: {sorted(shapes)}")
    fits = {
        quantity: read_fits(path)
        for quantity in QUANTITIES
        if (path := folder / "params" / f"layer_fit_params_{quantity}.json").is_file()
    }
    steps = tuple(sorted(read))
    stats = np.stack([read[step] for step in steps])
    return ReleasedModel(size=size[1], steps=steps, stats=stats, fits=fits, refused=refused)


def read_stats(path: str | Path) -> Float[np.ndarray, "sequences 4 layers"]:
    """One ``exp2_*`` file.

    Raises ValueError, naming the file, for text that is not such an array, is abridged, ragged or of another shape, or
    whose magnitudes are not in order.
    """
    path = Path(path)
    with reading(path):
        text = _AROUND.sub("", path.read_text(encoding="utf-8"))
    rest = _TOKEN.sub("", text).replace(",", "").strip()
    if rest:
        what = "abridged by NumPy (...)" if "..." in rest else f"not numbers in brackets ({rest.split()[0][:20]!r})"
        raise ValueError(f"{path} is {what}")
    with reading(path, "is ragged or its brackets do not match"):
        array = np.array(_nested(_TOKEN.findall(text)), dtype=np.float64)
    if array.ndim != 3 or array.shape[1] != 4 or not array.size:
        raise ValueError(f"{path} has shape {array.shape}; [sequences, 4, layers] was expected")
    if not (np.isfinite(array).all() and (array >= 0).all() and (np.diff(array, axis=1) <= 0).all()):
        raise ValueError(f"{path} does not hold magnitudes in the order top 1, top 2, top 3, median")
    return array


def read_fits(path: str | Path) -> list[ReleasedFit]:
    """One ``layer_fit_params_*.json``, its hypothesis ``original`` of every layer.

    Raises ValueError, naming file and layer, for anything else.
    """
    path = Path(path)
    with reading(path):
        content = path.read_bytes()
    layers = parse_json(content, path)
    if not isinstance(layers, list):
        raise ValueError(f"{path} is not a list of layers")
    found = []
    for number, layer in enumerate(layers):
        with reading(f"layer {number} of {path}", "is not a fit of the release"):
            fit = layer["original"]
            if fit["param_names"] != _NAMES:
                raise ValueError(f"parameters {fit['param_names']}, not {_NAMES}")
            a, lam, gamma, t0, k = map(float, fit["popt"])
            curve = EmergenceCurve(A=a, lam=lam, gamma=gamma, t0=t0, K=k)
            found.append(ReleasedFit(curve=curve, r2=float(fit["r2"]), aic=float(fit["aic"])))
    return found


def _nested(tokens: list[str]) -> Any:
    """Lists of numbers, as the brackets say."""
    open_lists: list[list[Any]] = [[]]
    for token in tokens:
        if token == "[":
            open_lists.append([])
        elif token == "]":
            closed = open_lists.pop()
            open_lists[-1].append(closed)
        else:
            open_lists[-1].append(float(token))
    (whole,) = open_lists
    (array,) = whole
    return array
