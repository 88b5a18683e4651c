"""A dictionary over places on disk: ``cfg.json``, and one safetensors file a part, whose rows can be read alone."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.files.outside import read_json, reading
from interp.files.seals import SEAL, is_broken, write_sealed_json
from interp.files.tensor_files import write_tensors
from interp.files.writing import sha256_of_file
from interp.models.names import EMBEDDED
from saes.activations import activation_from_config, activation_to_config
from saes.embedded import TRANSCODERS
from saes.hub import located
from saes.places import circuit_tracer, gemma_scope, llamascopium
from saes.places.dictionary import Dictionary
from saes.places.filled import stored_rows
from saes.places.layout import Layout
from saes.sae import CONFIG, SAE

FORMAT = "deepfield-places-1"
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


def weights_file(number: int) -> str:
    """Name of the file of one part's weights."""
    return f"part_{number:03d}.safetensors"


def save_dictionary(dictionary: Dictionary, path: str | Path) -> None:
    """Write a folder: weights first, then ``cfg.json`` with checksums of all files.

    Raises OSError where the disk is full; what was there before stays.

    Example:
        >>> import torch
        >>> from saes import TopK
        >>> from saes.places import Dictionary, Layout, save_dictionary
        >>> layout = Layout("transcoders", ("blocks.0.mlp.hook_in",), ("blocks.0.hook_mlp_out",))
        >>> dictionary = Dictionary(layout, ((8,), (8,)), d_sae=16, activation=TopK(2))
        >>> dictionary = dictionary.initialise(seed=0, means=[torch.zeros(8)])
        >>> from pathlib import Path
        >>> save_dictionary(dictionary, "set")
        >>> sorted(file.name for file in Path("set").iterdir())
        ['cfg.json', 'part_000.safetensors']
    """
    folder, parts = Path(path), [part for part, _ in dictionary.placed()]
    checksums = [
        write_tensors(folder / weights_file(number), dict(part.named_parameters())) for number, part in enumerate(parts)
    ]
    config = {
        "format": FORMAT,
        "kind": dictionary.layout.kind,
        "reads": list(dictionary.layout.reads),
        "writes": list(dictionary.layout.writes),
        "read_widths": list(dictionary.read_widths),
        "written_widths": list(dictionary.written_widths),
        "d_sae": dictionary.d_sae,
        "activation": activation_to_config(dictionary.activation),
        "budget": dictionary.budget,
        "skip": parts[0].skip,
        "subtract_b_dec": parts[0].subtract_b_dec,
        "read_scales": [list(part.read_scales) for part in parts],
        "norm_scales": [list(part.norm_scales) for part in parts],
        "dtype": str(parts[0].W_enc.dtype).removeprefix("torch."),
        "provenance": dictionary.provenance,
        "weights_sha256": checksums,
    }
    write_sealed_json(folder / CONFIG, config)


def load_dictionary(path: str | Path, *, device: str | torch.device = "cpu") -> Dictionary:
    """Read what ``save_dictionary`` wrote. Nothing in it is trusted: every shape, dtype and checksum is compared.

    Raises:
        ValueError: there is none, it is damaged, or of another format; the message says which and why.

    Example:
        >>> import torch
        >>> from saes import TopK
        >>> from saes.places import Dictionary, Layout, load_dictionary, save_dictionary
        >>> layout = Layout("transcoders", ("blocks.0.mlp.hook_in",), ("blocks.0.hook_mlp_out",))
        >>> dictionary = Dictionary(layout, ((8,), (8,)), d_sae=16, activation=TopK(2))
        >>> dictionary = dictionary.initialise(seed=0, means=[torch.zeros(8)])
        >>> save_dictionary(dictionary, "set")
        >>> load_dictionary("set").layout == layout
        True
    """
    folder = Path(path)
    with reading(f"cannot load a dictionary from {folder}", ""):
        config = read_json(folder / CONFIG)
        if config["format"] != FORMAT:
            raise ValueError(f"its format is {config['format']!r}, this version reads {FORMAT!r}")
        with torch.device("meta"):  # memory only once the files are known to hold these shapes
            dictionary = _described(config)
        if is_broken(config):
            raise ValueError(f"{CONFIG} was altered: its checksum differs. If the change was yours, remove its {SEAL}")
        checksums, parts = config["weights_sha256"], [part for part, _ in dictionary.placed()]
        if not isinstance(checksums, list) or len(checksums) != len(parts):
            raise ValueError(f"{CONFIG} has checksums of other files than {len(parts)} parts")
        files = {weights_file(number) for number in range(len(parts))}
        if strangers := sorted({file.name for file in folder.glob("part_*.safetensors")} - files):
            raise ValueError(f"{', '.join(strangers)} belongs to no part; {CONFIG} describes {len(parts)}")
        for number, (part, checksum) in enumerate(zip(parts, checksums, strict=True)):
            file = folder / weights_file(number)
            if not file.is_file():
                raise ValueError(f"{file.name} is missing; {CONFIG} describes {len(parts)} parts")
            part.read_weights(file)
            if sha256_of_file(file) != checksum:
                raise ValueError(f"{file.name} is not the file that {CONFIG} describes (checksum)")
    return dictionary.to(device)


def load_any(
    path: str | Path,
    *,
    revision: str | None = None,
    site: str | None = None,
    target_site: str | None = None,
    device: str | torch.device = "cpu",
) -> SAE | Dictionary:
    """An SAE or a dictionary over places, whichever the folder or hub id holds: ours, or another tool's.

    ``embedded`` is the set that ships: see ``embedded_transcoders``.

    Raises:
        ValueError: as ``SAE.load`` and ``load_dictionary``; a ``site`` or ``target_site`` for what has several.

    Example:
        >>> from saes.places import load_any
        >>> load_any("embedded").layout.kind
        'transcoders'
    """
    shipped = str(path) == EMBEDDED
    folder = Path(TRANSCODERS) if shipped else located(path, revision, several=True)
    form = _format_of(folder)
    if form is None:
        return SAE.load(folder, site=site, target_site=target_site, device=device)
    if site is not None or target_site is not None:
        raise ValueError(f"{path} is a dictionary over several places, which its files name: it takes no single site")
    return embedded_transcoders(device=device) if shipped else form.read(folder).to(device)


def is_over_places(folder: Path) -> bool:
    """Whether one dictionary over several places is there, ours or another tool's."""
    return _format_of(folder) is not None


def decoder_rows(folder: str | Path, part: int, latents: Int[Tensor, " n"]) -> Float[Tensor, "n places d"]:
    """Decoder rows of a few latents of one part, for every place that it writes, as ``load_any`` would hold them, read
    from disk without the rest: of our folders and those of circuit-tracer, Gemma Scope 2 and Llamascopium.

    What only the whole file can show (values that are not finite, Gemma Scope 2's weights to earlier layers) is not
    looked for.

    Raises:
        ValueError: no dictionary over several places, no such part, latents that it does not have, or places of several
            widths.

    Example:
        >>> import saes, torch
        >>> from saes.embedded import TRANSCODERS
        >>> tuple(saes.places.decoder_rows(TRANSCODERS, 1, torch.tensor([5, 900])).shape)
        (2, 1, 96)
    """
    place = Path(folder)
    form = _format_of(place)
    if form is None:
        raise ValueError(f"{folder} holds no dictionary over several places: give the folder of one")
    return form.rows(place, part, latents)


def _own_rows(folder: Path, part: int, latents: Int[Tensor, " n"]) -> Float[Tensor, "n places d"]:
    widths = set(read_json(folder / CONFIG)["written_widths"])
    if len(widths) > 1:
        raise ValueError(f"{folder} writes places of the widths {sorted(widths)}, whose rows are no one tensor")
    return stored_rows(folder / weights_file(part), "W_dec", latents).unflatten(1, (-1, *widths))


def _format_of(folder: Path) -> "_Format | None":
    return next((form for form in _FORMATS if folder.is_dir() and form.recognises(folder)), None)


def embedded_transcoders(*, device: str | torch.device = "cpu") -> Dictionary:
    """The transcoder set that ships with the embedded model, one transcoder for each of its four MLPs, in float32.

    How good it is stands in ``docs/replacement.md``.

    Example:
        >>> import saes
        >>> transcoders = saes.embedded_transcoders()
        >>> transcoders.layout.writes[0], transcoders.d_sae
        ('blocks.0.hook_mlp_out', 1024)
    """
    return load_dictionary(TRANSCODERS, device=device).float()


def holds_places(folder: Path) -> bool:
    """Whether the configuration there is of a dictionary over places."""
    try:
        return bool(read_json(folder / CONFIG).get("format") == FORMAT)
    except (ValueError, AttributeError):
        return False


class _Format(NamedTuple):
    """How a tool's folders are known, and read: whole, or decoder rows of a few latents."""

    recognises: Callable[[Path], bool]
    read: Callable[[Path], Dictionary]
    rows: Callable[[Path, int, Tensor], Tensor]


_FORMATS = (
    _Format(holds_places, load_dictionary, _own_rows),
    _Format(llamascopium.recognises, llamascopium.read_llamascopium, llamascopium.rows),
    _Format(gemma_scope.recognises, gemma_scope.read_gemma_scope, gemma_scope.rows),
    _Format(circuit_tracer.recognises, circuit_tracer.read_circuit_tracer, circuit_tracer.rows),
)


def _described(config: Mapping[str, Any]) -> Dictionary:
    """Without memory for its weights; every value of the file is checked."""
    for name in ("reads", "writes"):
        if not _all_are(config[name], str):
            raise ValueError(f"{name} is {config[name]!r}; it must be a list of names of places")
    for name in ("read_widths", "written_widths"):
        if not _all_are(config[name], int):
            raise ValueError(f"{name} is {config[name]!r}; it must be a list of whole numbers")
    for name, kind, words in (
        ("d_sae", int, "a whole number"),
        ("skip", bool, "true or false"),
        ("subtract_b_dec", bool, "true or false"),
        ("kind", str, "a name"),
        ("dtype", str, "a name"),
    ):
        if type(config[name]) is not kind:
            raise ValueError(f"{name} is {config[name]!r}; it must be {words}")
    dictionary = Dictionary(
        Layout(config["kind"], tuple(config["reads"]), tuple(config["writes"])),
        (config["read_widths"], config["written_widths"]),
        d_sae=config["d_sae"],
        activation=activation_from_config(config["activation"]),
        skip=config["skip"],
        subtract_b_dec=config["subtract_b_dec"],
        budget=config["budget"],
        provenance=config["provenance"],
        dtype=_DTYPES[config["dtype"]],
    )
    parts = [part for part, _ in dictionary.placed()]
    of_reads = _checked_scales("read_scales", config, [len(part.read_widths) for part in parts])
    of_norms = _checked_scales("norm_scales", config, [len(part.written_widths) for part in parts])
    for part, its_reads, its_norms in zip(parts, of_reads, of_norms, strict=True):
        part.read_scales, part.norm_scales = its_reads, its_norms
    return dictionary


def _checked_scales(name: str, config: Mapping[str, Any], counts: list[int]) -> list[tuple[float, ...]]:
    """One list of numbers a part."""
    scales = config[name]
    if not isinstance(scales, list) or len(scales) != len(counts):
        raise ValueError(f"{name} is {scales!r}; it must have a list of numbers for each of {len(counts)} parts")
    for its, count in zip(scales, counts, strict=True):
        if not _all_are(its, float) or len(its) != count or not all(0 < scale < math.inf for scale in its):
            raise ValueError(f"{name} holds {its!r}; it must be {count} numbers above 0")
    return [tuple(its) for its in scales]


def _all_are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)
