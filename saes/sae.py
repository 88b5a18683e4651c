"""The one sparse autoencoder: ``x_hat = select((x - b_dec) @ W_enc + b_enc) @ W_dec + b_dec``.

Variants differ in ``select`` (``saes.activations``) and in their loss; the affine maps never vary. A transcoder is the
same with another output than input: it does not subtract b_dec from the input, and may add ``x @ W_skip.T``. With
``layer_norm`` x and x_hat are each activation minus its mean, over its standard deviation.
"""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from interp.arguments.kinds import require
from interp.files.outside import read_json, reading
from interp.files.seals import SEAL, is_broken, write_sealed_json
from interp.files.tensor_files import write_tensors
from interp.files.writing import sha256_of_file
from interp.sites.site import Site
from saes.activations import Activation, Extra, activation_from_config, activation_to_config
from saes.convert import read
from saes.convert.record import Record
from saes.convert.weights import all_finite
from saes.distributed.group import ALONE, Group
from saes.hub import located, only_one_below
from saes.kernels.decode import decode
from saes.kernels.encode import pre_activations
from saes.latents import Latents
from saes.layer_norm import RowScale

FORMAT = "deepfield-sae-1"
WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
# Gathering single decoder rows beats the dense product only while few of them are active.
GATHER_UP_TO = 1 / 16
_KINDS: dict[type, str] = {int: "a whole number", bool: "true or false"}
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class SAE(nn.Module):
    """Weights, an activation, and where the SAE comes from. Fresh weights are zero: see ``initialise``.

    It starts in eval mode, in which a row's latents never depend on the rest of its batch.

    Example:
        >>> import saes, torch
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> x = torch.randn(3, 96)
        >>> latents = sae.encode(x)
        >>> torch.equal(sae.decode(latents, x), sae(x)), latents.values.shape
        (True, torch.Size([3, 8]))
    """

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    W_skip: Float[Tensor, "d_out d_in"]
    threshold: Float[Tensor, "*d_sae"]
    r_mag: Float[Tensor, " d_sae"]
    b_mag: Float[Tensor, " d_sae"]
    group: Group = ALONE
    """Processes that train it together: this one may hold only some of the latents."""

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        activation: Activation,
        *,
        d_out: int | None = None,
        subtract_b_dec: bool = True,
        skip: bool = False,
        layer_norm: bool = False,
        site: str | None = None,
        target_site: str | None = None,
        provenance: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        d_out = d_in if d_out is None else d_out
        for name, size in (("d_in", d_in), ("d_sae", d_sae), ("d_out", d_out)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; it must be a whole number of 1 or more")
        if isinstance(activation, type) or not hasattr(activation, "select"):
            raise ValueError(f"activation is {activation!r}; pass an object, such as saes.TopK(32) or saes.ReLU()")
        k = getattr(activation, "k", 1)
        if k > d_sae:
            raise ValueError(f"k is {k} but there are only d_sae = {d_sae} latents; lower k or raise d_sae")
        if subtract_b_dec and d_out != d_in:
            raise ValueError(f"b_dec has d_out = {d_out} entries, the input {d_in}: pass subtract_b_dec=False")
        if layer_norm and (skip or target_site is not None or d_out != d_in):
            raise ValueError("layer_norm gives the output its input's mean and deviation: it is not for transcoders")
        self.d_in, self.d_sae, self.d_out, self.activation = d_in, d_sae, d_out, activation
        self.subtract_b_dec, self.skip, self.layer_norm = subtract_b_dec, skip, layer_norm
        self.site, self.target_site, self.provenance = site, target_site, provenance or {}
        for name, shape in self._shapes().items():
            extra = activation.extras.get(name, Extra())
            kept = torch.float32 if extra.float32 and dtype != torch.float64 else dtype
            weights = torch.full(shape, extra.initial, dtype=kept)
            if name == "W_enc":  # a latent's weights side by side: backward sums and gathers them
                weights = weights.T.contiguous().T
            self.register_parameter(name, nn.Parameter(weights, requires_grad=extra.learned))
        self.b_enc.requires_grad_(activation.uses_b_enc)
        self.eval()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        d_in, d_sae, d_out = self.d_in, self.d_sae, self.d_out
        shapes: dict[str, tuple[int, ...]]
        shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
        if self.skip:
            shapes["W_skip"] = (d_out, d_in)
        return shapes | {name: (d_sae,) if extra.per_latent else () for name, extra in self.activation.extras.items()}

    @torch.no_grad()
    def initialise(self, *, seed: int, mean: Float[Tensor, " d_out"]) -> "SAE":
        """Random encoder, decoder its transpose (or random, in a transcoder) with unit rows; b_dec the data's mean
        where the variant wants it."""
        generator = torch.Generator().manual_seed(seed)
        bound = math.sqrt(6 / self.d_sae)
        weights = torch.empty(self.d_in, self.d_sae).uniform_(-bound, bound, generator=generator)
        unit = functional.normalize(weights, dim=0)
        self.W_enc.copy_(unit if self.activation.unit_norm_encoder else weights)
        rows = unit.T if self.subtract_b_dec else torch.randn(self.d_sae, self.d_out, generator=generator)
        self.W_dec[:, : self.d_out].copy_(functional.normalize(rows, dim=-1))
        self.b_enc.zero_()
        self.b_dec.copy_(mean if self.activation.starts_at_mean else torch.zeros_like(mean))
        return self

    def normalised(
        self, x: Float[Tensor, "*batch d_in"], *, as_: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_in"]:
        """``x`` in the units of latents and b_dec: as it is but for ``layer_norm``, which takes each row's mean and
        deviation out, or those of the rows ``as_``."""
        return RowScale.of(x if as_ is None else as_).remove(x) if self.layer_norm else x

    def centred(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The input as the encoder sees it: normalised, and minus b_dec, except in a transcoder."""
        x = self.normalised(x)
        return x - self.b_dec if self.subtract_b_dec else x

    def in_units_of_norms(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The centred input in the units in which ``decoder_norms`` are, for a selection that compares the two."""
        return self.centred(x)

    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Norm of each latent's decoder row."""
        return self.W_dec.norm(dim=-1)

    def pre_activations(
        self, x: Float[Tensor, "*batch d_in"], *, only: Int[Tensor, " chosen"] | None = None
    ) -> Float[Tensor, "*batch latents"]:
        """The encoder's affine map, dense and differentiable, of all latents or of those with the indices ``only``."""
        W_enc, b_enc = (self.W_enc, self.b_enc) if only is None else (self.W_enc[:, only], self.b_enc[only])
        pre = self.centred(x) @ W_enc
        return pre + b_enc if self.activation.uses_b_enc else pre

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Latents:
        """Sparse latents of each row.

        Raises ValueError for rows of another width, and for rows that are not finite; in training the loss tells,
        without a second look at the data.
        """
        require(x, Tensor, what="a tensor of rows", fix="what interp.capture(model, tokens, site)[site] returns")
        if x.shape[-1] != self.d_in:
            raise ValueError(f"the rows have {x.shape[-1]} dimensions; this SAE reads {self.d_in}: {self._place()}")
        if not self.training and not (finite := x.isfinite().all(-1)).all():
            rows = (~finite).reshape(-1).nonzero().flatten().tolist()
            raise ValueError(
                f"{len(rows)} of the {finite.numel()} rows to encode are not finite (the first is row {rows[0]}): run"
                " the model in float32 or bfloat16, or leave such rows out"
            )
        b_enc = self.b_enc if self.activation.uses_b_enc else None
        b_dec = self.b_dec if self.subtract_b_dec else None
        pre = pre_activations(self.normalised(x), self.W_enc, b_enc, b_dec)
        return self.activation.select(self, pre, self.in_units_of_norms(x))

    def written(self, latents: Latents, *, frozen: bool = False) -> Float[Tensor, "*batch d_written"]:
        """Sum of the active latents' decoder rows alone, in the decoder's dtype; ``frozen`` as in ``decode``."""
        W_dec = self.W_dec.detach() if frozen else self.W_dec
        dense = latents.values.shape[-1] > GATHER_UP_TO * self.d_sae
        rows = latents.to_dense() @ W_dec if dense else decode(latents.values, latents.indices, W_dec)
        return self.group.over_latents(rows)

    def decode(
        self, latents: Latents, x: Float[Tensor, "*batch d_in"] | None = None, *, frozen: bool = False
    ) -> Float[Tensor, "*batch d_out"]:
        """Sum of the active latents' decoder rows, plus b_dec; a skip connection and ``layer_norm`` need ``x``.

        ``frozen``: the gradient reaches the latents alone, not the decoder. Raises ValueError for dense latents.
        """
        if not isinstance(latents, Latents):
            raise ValueError(
                f"decode takes sparse Latents, as encode returns them, not a {type(latents).__name__}; of a dense"
                " [..., d_sae] tensor make them with saes.Latents.from_dense(tensor)"
            )
        x_hat = self.written(latents, frozen=frozen) + (self.b_dec.detach() if frozen else self.b_dec)
        if not self.skip and not self.layer_norm:
            return x_hat
        if x is None:
            reason = "has a skip connection" if self.skip else "was trained on layer-normalised activations"
            raise ValueError(f"this SAE {reason}: decode needs the input too, decode(latents, x)")
        if self.layer_norm:
            return RowScale.of(x).restore(x_hat)
        return x_hat + x @ (self.W_skip.detach() if frozen else self.W_skip).T

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction."""
        return self.decode(self.encode(x), x)

    def _place(self) -> str:
        there = f"it was trained at {self.site}" if self.site else "it does not say at which site"
        return there + (f" for {self.target_site}" if self.target_site else "")

    def extra_repr(self) -> str:
        """What it is, in one line."""
        widths = f"d_in={self.d_in}, d_sae={self.d_sae}" + (f", d_out={self.d_out}" if self.d_out != self.d_in else "")
        place = f", site={self.site!r}" if self.site else ""
        return f"{self.activation}, {widths}{place}" + (
            f", target_site={self.target_site!r}" if self.target_site else ""
        )

    @torch.no_grad()
    def fold_scales(self, scale: float, target_scale: float | None = None) -> "SAE":
        """In place: an SAE of ``scale * x`` becomes one of ``x`` with the same latents; its output is divided by
        ``target_scale`` (``scale`` if not given). One with ``layer_norm`` is both."""
        target_scale = scale if target_scale is None else target_scale
        if self.subtract_b_dec and target_scale != scale:
            raise ValueError(f"input and output of an SAE share b_dec: scales {scale} and {target_scale} must be equal")
        if self.layer_norm:
            return self
        self.W_enc.mul_(scale)
        self.W_dec.div_(target_scale)
        self.b_dec.div_(target_scale)
        if getattr(self.activation, "decoder_norms", False):  # what is compared with the threshold shrinks with W_dec
            self.threshold.div_(target_scale)
        if self.skip:
            self.W_skip.mul_(scale / target_scale)
        return self

    def save(self, path: str | Path) -> None:
        """Write a folder of weights (safetensors) and ``cfg.json``, which comes last, with checksums of both.

        Raises OSError where the disk is full; what was there before stays.
        """
        folder = Path(path)
        weights_sha256 = write_tensors(folder / WEIGHTS, dict(self.named_parameters()))
        config = {
            "format": FORMAT,
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "d_out": self.d_out,
            "subtract_b_dec": self.subtract_b_dec,
            "skip": self.skip,
            "layer_norm": self.layer_norm,
            "dtype": str(self.W_enc.dtype).removeprefix("torch."),
            "activation": activation_to_config(self.activation),
            "site": self.site,
            "target_site": self.target_site,
            "provenance": self.provenance,
            "weights_sha256": weights_sha256,
        }
        write_sealed_json(folder / CONFIG, config)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        site: str | None = None,
        target_site: str | None = None,
        device: str | torch.device = "cpu",
    ) -> "SAE":
        """Read a folder that ``save``, or another tool (``saes.convert``), wrote.

        A ``path`` that is not there is looked for on the Hugging Face hub, at ``revision``: ``owner/name``, or
        ``owner/name/folder`` (``saes.hub``). Nothing in it is trusted: every shape and dtype is checked first, and no
        pickle is executed. ``site`` and ``target_site`` take the place of what its files say of where it reads, and of
        where what it reconstructs is.

        Raises:
            ValueError: there is no SAE, it is damaged, or of a kind that cannot be held here; a site that is none.
        """
        folder = only_one_below(located(path, revision))
        sae = cls._load(folder) if _is_ours(folder) else cls.from_record(read(folder))
        if site is not None or target_site is not None:
            sae.place(site, target_site)
        return sae.to(device)

    def place(self, site: str | None = None, target_site: str | None = None) -> None:
        """Say where it reads, and where what it reconstructs is, in place of what its files say."""
        if site is not None:
            self.site = str(Site.parse(site))
        if target_site is not None:
            target = str(Site.parse(target_site))
            self.target_site = None if target == self.site else target
        imported = self.provenance.get("imported")
        if isinstance(imported, dict):
            self.provenance = self.provenance | {"imported": {k: v for k, v in imported.items() if k != "module"}}

    @classmethod
    def _load(cls, folder: Path) -> "SAE":
        """One that ``save`` wrote."""
        with reading(f"cannot load an SAE from {folder}", ""):
            config = read_json(folder / CONFIG)
            if config["format"] == "deepfield-places-1":
                raise ValueError("it holds a dictionary over several places; load it with saes.places.load_any")
            if config["format"] != FORMAT:
                raise ValueError(f"its format is {config['format']!r}, this version reads {FORMAT!r}")
            config.setdefault("layer_norm", False)  # which the first files do not have
            kinds = {"d_in": int, "d_sae": int, "d_out": int, "subtract_b_dec": bool, "skip": bool, "layer_norm": bool}
            for name, kind in kinds.items():
                if type(config[name]) is not kind:
                    raise ValueError(f"{name} is {config[name]!r}; it must be {_KINDS[kind]}")
            dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values()}
            with torch.device("meta"):  # memory only once the file is known to hold these shapes
                sae = cls(
                    config["d_in"],
                    config["d_sae"],
                    activation_from_config(config["activation"]),
                    d_out=config["d_out"],
                    subtract_b_dec=config["subtract_b_dec"],
                    skip=config["skip"],
                    layer_norm=config["layer_norm"],
                    site=config["site"],
                    target_site=config["target_site"],
                    provenance=config["provenance"],
                    dtype=dtypes[config["dtype"]],
                )
            if is_broken(config):
                raise ValueError(
                    f"{CONFIG} was altered: its checksum differs. If the change was yours, remove its {SEAL}"
                )
            sae.read_weights(folder / WEIGHTS)
            if sha256_of_file(folder / WEIGHTS) != config["weights_sha256"]:
                raise ValueError(f"{WEIGHTS} is not the file that {CONFIG} describes (checksum)")
        return sae

    @classmethod
    @torch.no_grad()
    def from_record(cls, record: Record) -> "SAE":
        """An SAE with the weights of a record.

        Raises:
            ValueError: a weight is missing, of another shape than the rest asks for, or not finite; or one that such an
                SAE does not use, and that would change what it computes where it was trained.
        """
        where, weights = record.where, record.weights
        with torch.device("meta"):  # memory only once every shape is known to be right
            sae = cls(
                record.d_in,
                record.d_sae,
                record.activation,
                d_out=record.d_out,
                subtract_b_dec=record.subtract_b_dec,
                skip=record.skip,
                layer_norm=record.layer_norm,
                site=record.site,
                target_site=record.target_site,
                provenance=record.provenance,
                dtype=record.dtype,
            )
        if unused := sorted(set(weights) - {name for name, _ in sae.named_parameters()}):
            kind = record.activation.name
            raise ValueError(f"{where}: an SAE of the kind {kind} has no {', '.join(unused)}, which the file holds")
        for name, parameter in sae.named_parameters():
            if name not in weights:
                raise ValueError(f"{where} lacks {name}")
            if weights[name].shape != parameter.shape:
                raise ValueError(
                    f"{where}: {name} has shape {tuple(weights[name].shape)}, expected {tuple(parameter.shape)}"
                )
            if not all_finite(weights[name]):
                raise ValueError(f"{where}: {name} is not finite")
        sae.to_empty(device="cpu")
        for name, parameter in sae.named_parameters():
            parameter.copy_(weights[name])
        return sae if record.scales == (1.0, 1.0) else sae.fold_scales(*record.scales)

    def record(self) -> Record:
        """Itself as plain data, which ``saes.convert`` writes for other tools."""
        return Record(
            activation=self.activation,
            weights={name: parameter.detach().cpu().contiguous() for name, parameter in self.named_parameters()},
            subtract_b_dec=self.subtract_b_dec,
            layer_norm=self.layer_norm,
            site=self.site,
            target_site=self.target_site,
            provenance=self.provenance,
        )

    @torch.no_grad()
    def read_weights(self, path: Path) -> None:
        """Fill an SAE without memory from a safetensors file; every name, shape and dtype is compared first."""
        shapes = self._shapes()
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != set(shapes):
                raise ValueError(f"{path.name} holds {sorted(file.keys())}, expected {sorted(shapes)}")
            for name, shape in shapes.items():
                stored = file.get_slice(name)
                parameter = self.get_parameter(name)
                if tuple(stored.get_shape()) != shape or _DTYPES.get(stored.get_dtype()) != parameter.dtype:
                    found = f"{stored.get_dtype()} {tuple(stored.get_shape())}"
                    raise ValueError(f"{name} is {found}, {CONFIG} says {parameter.dtype} {shape}")
            self.to_empty(device="cpu")
            for name in shapes:
                self.get_parameter(name).copy_(file.get_tensor(name))


def _is_ours(folder: Path) -> bool:
    """Whether the configuration there says that it is ours (or cannot be read, which ``load`` then tells)."""
    try:
        config = read_json(folder / CONFIG)
        return "format" in config or "weights_sha256" in config  # both: one of the names may be damaged
    except ValueError:
        return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()
