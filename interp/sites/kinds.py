"""Every kind of site: its TransformerLens names and its order in a block."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of place in a transformer, once a layer, or once where its name has no layer."""

    name: str
    """As TransformerLens prints it; ``{layer}`` stands for the number."""
    synonyms: tuple[str, ...] = ()
    """Other names of the same tensor in every family; the canonical ones of TransformerLens 3 and later among them."""
    heads: bool = False
    """Whether one head can be asked for."""
    head_dim: int = 2
    """Dimension of the tensor that numbers the heads."""


KINDS: dict[str, Kind] = {
    "embed": Kind(name="hook_embed", synonyms=("embed.hook_out",)),
    "pos_embed": Kind(name="hook_pos_embed", synonyms=("pos_embed.hook_out",)),
    "resid_pre": Kind(name="blocks.{layer}.hook_resid_pre", synonyms=("blocks.{layer}.hook_in",)),
    "ln1_scale": Kind(name="blocks.{layer}.ln1.hook_scale"),
    "ln1_normalized": Kind(name="blocks.{layer}.ln1.hook_normalized"),
    "q": Kind(name="blocks.{layer}.attn.hook_q", synonyms=("blocks.{layer}.attn.q.hook_out",), heads=True),
    "k": Kind(name="blocks.{layer}.attn.hook_k", synonyms=("blocks.{layer}.attn.k.hook_out",), heads=True),
    "v": Kind(name="blocks.{layer}.attn.hook_v", synonyms=("blocks.{layer}.attn.v.hook_out",), heads=True),
    "q_normed": Kind(name="blocks.{layer}.attn.q_norm.hook_out", heads=True),
    "k_normed": Kind(name="blocks.{layer}.attn.k_norm.hook_out", heads=True),
    "scores": Kind(name="blocks.{layer}.attn.hook_attn_scores", heads=True, head_dim=1),
    "pattern": Kind(name="blocks.{layer}.attn.hook_pattern", heads=True, head_dim=1),
    "z": Kind(name="blocks.{layer}.attn.hook_z", synonyms=("blocks.{layer}.attn.o.hook_in",), heads=True),
    "result": Kind(name="blocks.{layer}.attn.hook_result", heads=True),
    "attn_out": Kind(name="blocks.{layer}.hook_attn_out"),
    # TransformerLens's hook_mlp_in is not what its name suggests: it lies before the MLP's norm.
    "resid_mid": Kind(name="blocks.{layer}.hook_resid_mid", synonyms=("blocks.{layer}.hook_mlp_in",)),
    "ln2_scale": Kind(name="blocks.{layer}.ln2.hook_scale"),
    "ln2_normalized": Kind(name="blocks.{layer}.ln2.hook_normalized"),
    "mlp_in": Kind(name="blocks.{layer}.mlp.hook_in"),
    "mlp_pre": Kind(name="blocks.{layer}.mlp.hook_pre"),
    "mlp_post": Kind(name="blocks.{layer}.mlp.hook_post", synonyms=("blocks.{layer}.mlp.out.hook_in",)),
    "expert_weights": Kind(name="blocks.{layer}.mlp.hook_expert_weights"),
    "expert_out": Kind(name="blocks.{layer}.mlp.hook_expert_out"),
    "mlp_out": Kind(name="blocks.{layer}.hook_mlp_out"),
    "resid_post": Kind(name="blocks.{layer}.hook_resid_post", synonyms=("blocks.{layer}.hook_out",)),
    "ln_final_scale": Kind(name="ln_final.hook_scale"),
    "ln_final_normalized": Kind(name="ln_final.hook_normalized"),
    "logits": Kind(name="logits"),
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
