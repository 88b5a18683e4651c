"""An SAE of ours as the object that SAEBench's evaluations take.

Nothing of SAEBench is imported: what it asks of an SAE (``sae_bench.custom_saes.base_sae`` of 0.6) is a module with
dense ``encode`` and ``decode``, four weights and a ``cfg``. SAEBench pins libraries that cannot live beside ours, so
this runs in its environment, with our checkout on ``PYTHONPATH``.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.sites.site import Site
from saes.latents import Latents
from saes.sae import SAE


@dataclass
class SAEBenchConfig:
    """What SAEBench's evaluations read of an SAE's configuration; names and defaults are its."""

    model_name: str
    """Name of the model, as SAEBench's ``--model_name`` has it."""
    d_in: int
    """Width of an activation."""
    d_sae: int
    """Number of latents there are."""
    hook_layer: int
    """Number of the block whose activation is read."""
    hook_name: str
    """Name of the hook point, as TransformerLens has it."""
    dtype: str
    """Name of the weights' dtype, without ``torch.``."""
    device: str
    """Where the weights are, such as cpu."""
    architecture: str
    """Name of the variant, for tables."""
    context_size: int | None = None
    """Tokens a row, where an evaluation does not say."""
    hook_head_index: int | None = None
    """Head that is read, of sites with heads."""
    prepend_bos: bool = True
    """Whether rows begin with a BOS token."""
    normalize_activations: str = "none"
    """Nothing is done to activations before they are encoded."""
    dataset_path: str = ""
    """Data of the training, which evaluations only pass on."""
    dataset_trust_remote_code: bool = False
    """Whether loading that data may run its code."""
    seqpos_slice: tuple[None] = (None,)
    """Positions that the SAE was trained on: all."""
    training_tokens: int = -1
    """How many tokens it saw; not known here."""

    @property
    def architecture_str(self) -> str:
        """The same as ``architecture``, which older code asks for by this name."""
        return self.architecture

    def to_dict(self) -> dict[str, Any]:
        """Plain data, which goes into result files."""
        return asdict(self)


class SAEBenchSAE(nn.Module):
    """``sae`` with SAEBench's face; see :func:`for_saebench`."""

    def __init__(self, sae: SAE, cfg: SAEBenchConfig) -> None:
        super().__init__()
        self.sae, self.cfg = sae, cfg

    @property
    def W_enc(self) -> nn.Parameter:
        """[d_in, d_sae]."""
        return self.sae.get_parameter("W_enc")

    @property
    def W_dec(self) -> nn.Parameter:
        """[d_sae, d_in]."""
        return self.sae.get_parameter("W_dec")

    @property
    def b_enc(self) -> nn.Parameter:
        """[d_sae]; not read by variants that have no encoder bias."""
        return self.sae.get_parameter("b_enc")

    @property
    def b_dec(self) -> nn.Parameter:
        """[d_in]."""
        return self.sae.get_parameter("b_dec")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_enc.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.W_enc.dtype

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Dense latents."""
        return self.sae.encode(x).to_dense()

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction from dense latents."""
        return self.sae.decode(Latents.from_dense(latents))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction."""
        return self.decode(self.encode(x))


def for_saebench(sae: SAE, *, model_name: str, context_size: int | None = None) -> SAEBenchSAE:
    """``sae`` as an object for SAEBench's ``run_eval`` functions: ``selected_saes=[("mine", for_saebench(sae, ...))]``.

    SAEBench takes latents in units of unit decoder rows (absorption multiplies them by cosines), so an SAE whose rows
    are not of norm 1 is refused: rescale it first. Raises ValueError for that, for a site that is no residual stream of
    a block, and for transcoders and ``layer_norm``, which SAEBench has no place for.

    Example:
        >>> import saes, torch
        >>> from saes.suites import for_saebench
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> theirs = for_saebench(sae, model_name="pythia-70m-deduped")
        >>> theirs.encode(torch.randn(3, 96)).shape, theirs.cfg.hook_layer
        (torch.Size([3, 192]), 2)
    """
    if sae.d_in != sae.d_out or sae.target_site is not None or sae.skip or sae.layer_norm:
        raise ValueError("SAEBench takes SAEs that read and write one site as it is: no transcoder and no layer_norm")
    site = Site.parse(sae.site) if sae.site else None
    if site is None or site.layer is None or site.head is not None:
        raise ValueError(f"SAEBench needs the site of a block, and this SAE's is {sae.site}: set it with place")
    norms = sae.decoder_norms().detach()
    if (worst := float((norms - 1).abs().max())) > 1e-3:
        raise ValueError(
            f"decoder rows have norms up to {worst:.3g} from 1, and SAEBench multiplies latents by cosines: scale"
            " decoder rows to norm 1, and the encoder's columns, biases and thresholds by the norms"
        )
    config = SAEBenchConfig(
        model_name=model_name,
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        hook_layer=site.layer,
        hook_name=str(site),
        dtype=str(sae.W_enc.dtype).removeprefix("torch."),
        device=str(sae.W_enc.device),
        architecture=sae.activation.name,
        context_size=context_size,
    )
    return SAEBenchSAE(sae, config)
