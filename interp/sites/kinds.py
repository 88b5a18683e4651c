"""Every kind of site: its TransformerLens names, its order in a block, and what a model lacks when it lacks it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of place in a transformer, which every layer has once (or the whole model, for ``ln_final_scale``)."""

    name: str
    """As TransformerLens prints it; ``{layer}`` stands for the number."""
    synonyms: tuple[str, ...] = ()
    """Other names of the same tensor in every family; the canonical ones of TransformerLens 3 and later among them."""
    heads: bool = False
    """Whether one head can be asked for."""
    head_dim: int = 2
    """Dimension of the tensor that numbers the heads."""
    why_absent: str = "this architecture does not compute it"


_PARALLEL = (
    "its attention and MLP read the residual stream in parallel, so there is no residual stream between them; the MLP's"
    " input before its norm is resid_pre"
)

KINDS: dict[str, Kind] = {
    "resid_pre": Kind(name="blocks.{layer}.hook_resid_pre", synonyms=("blocks.{layer}.hook_in",)),
    "ln1_scale": Kind(name="blocks.{layer}.ln1.hook_scale"),
    "q": Kind(name="blocks.{layer}.attn.hook_q", synonyms=("blocks.{layer}.attn.q.hook_out",), heads=True),
    "k": Kind(name="blocks.{layer}.attn.hook_k", synonyms=("blocks.{layer}.attn.k.hook_out",), heads=True),
    "v": Kind(name="blocks.{layer}.attn.hook_v", synonyms=("blocks.{layer}.attn.v.hook_out",), heads=True),
    "scores": Kind(name="blocks.{layer}.attn.hook_attn_scores", heads=True, head_dim=1),
    "pattern": Kind(name="blocks.{layer}.attn.hook_pattern", heads=True, head_dim=1),
    "z": Kind(name="blocks.{layer}.attn.hook_z", synonyms=("blocks.{layer}.attn.o.hook_in",), heads=True),
    "attn_out": Kind(name="blocks.{layer}.hook_attn_out"),
    # TransformerLens's hook_mlp_in is not what its name suggests: it lies before the MLP's norm.
    "resid_mid": Kind(
        name="blocks.{layer}.hook_resid_mid", synonyms=("blocks.{layer}.hook_mlp_in",), why_absent=_PARALLEL
    ),
    "ln2_scale": Kind(name="blocks.{layer}.ln2.hook_scale"),
    "mlp_in": Kind(name="blocks.{layer}.mlp.hook_in"),
    "mlp_post": Kind(name="blocks.{layer}.mlp.hook_post", synonyms=("blocks.{layer}.mlp.out.hook_in",)),
    "mlp_out": Kind(name="blocks.{layer}.hook_mlp_out"),
    "resid_post": Kind(name="blocks.{layer}.hook_resid_post", synonyms=("blocks.{layer}.hook_out",)),
    "ln_final_scale": Kind(name="ln_final.hook_scale"),
}
"""In the order in which a block computes them (where attention and MLP are parallel, nearly)."""

# The output of these Hugging Face modules is always the named site. `model.layers.3.mlp` is not here: in Gemma a norm
# follows before its output is added to the residual stream.
HF_MODULES: dict[str, str] = {
    "gpt_neox.layers.{layer}": "resid_post",
    "gpt_neox.layers.{layer}.attention": "attn_out",
    "gpt_neox.layers.{layer}.mlp": "mlp_out",
    "transformer.h.{layer}": "resid_post",
    "transformer.h.{layer}.attn": "attn_out",
    "transformer.h.{layer}.mlp": "mlp_out",
    "model.layers.{layer}": "resid_post",
    "h.{layer}": "resid_post",
    "h.{layer}.attn": "attn_out",
    "h.{layer}.mlp": "mlp_out",
    "layers.{layer}": "resid_post",
}
