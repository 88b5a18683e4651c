"""What a declaration of a model family says."""

from dataclasses import dataclass
from typing import Literal

Fusion = Literal["separate", "stacked", "grouped"]
"""How queries, keys and values come: from a projection each; from one, with all queries before all keys before all
values (GPT-2, Phi-3, Falcon-7B); or from one, with the queries of a key-value head before its key and its value
(GPT-NeoX, where each has one query, and Falcon-40B)."""


BRIDGE = frozenset(
    {
        "embed", "resid_pre", "ln1_scale", "ln1_normalized", "q", "k", "v", "scores", "pattern", "z", "attn_out",
        "resid_mid", "ln2_scale", "ln2_normalized", "mlp_in", "mlp_pre", "mlp_post", "mlp_out", "resid_post",
        "ln_final_scale", "ln_final_normalized", "logits",
    }
)  # fmt: skip
"""Kinds of sites that a bridge shows as the Hugging Face modules compute them, in most families."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A mixture of experts in the place of an MLP; paths start at it.

    Example:
        >>> from interp.models.families import Mixture
        >>> Mixture(router="gate").experts
        'experts'
    """

    router: str = "gate"
    """Its output ends in weights and indices ``[token, chosen]``."""
    experts: str = "experts"
    """Called with hidden states, indices and weights; its output is the sum over experts."""
    dense: bool = False
    """Every expert runs on every token, one expert after the other, of what the router multiplied; the router's output
    begins with these factors ``[token, expert]``, 0 for those that were not chosen (Llama 4)."""


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek): keys and values are made of one small vector a token; paths start at
    attention. A key is a part made of that vector, and behind it a rotary part that all heads share.

    Example:
        >>> from interp.models.families import Latent
        >>> Latent().down
        'kv_a_proj_with_mqa'
    """

    down: str = "kv_a_proj_with_mqa"
    """Projection from the residual stream to the small vector and the rotary part."""
    norm: str = "kv_a_layernorm"
    """The norm of the small vector."""
    up: str = "kv_b_proj"
    """Projection from the small vector to keys and values."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Module paths and facts of one family. Paths of the parts of a block start at the block, those of the parts of
    attention and MLP there; None is a part that the family does not have.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.models.families.family_of(model.original_model.config).embedding
        'gpt_neox.embed_in'
    """

    blocks: str = "model.layers"
    """Path of the list of blocks, from the model."""
    embedding: str = "model.embed_tokens"
    """Path of the token embedding, from the model."""
    embedding_projection: str | None = None
    """Brings a narrower embedding to the width of the residual stream."""
    embedding_multiplier: float = 1.0
    """On the embedding's output; 1 where its module multiplies itself (Gemma)."""
    position_embedding: str | None = None
    """Its output is added to the token's embedding."""
    final_norm: str | None = "model.norm"
    """Path of the norm before the unembedding, from the model."""

    parallel: bool = False
    """Attention and MLP read the same residual stream, so that there is none between them."""
    post_layer_norm: bool = False
    """``norm1`` and ``norm2`` stand in the residual stream itself, behind attention and MLP (GPT-1, OPT-350m)."""
    residual_multiplier: float = 1.0
    """On what attention and MLP add to the residual stream (Granite)."""
    in_place: bool = False
    """The block adds to outputs of its modules in place, so that what is captured there must be copied at once."""

    block_returns_tuple: bool = False
    """The block's output is the residual stream in front of something else."""

    norm1: str | None = "input_layernorm"
    """The norm before attention; before the MLP too, where a parallel block has no ``norm2``."""
    attention: str = "self_attn"
    """Path of the module that is the block's attention."""
    fusion: Fusion = "separate"
    """How queries, keys and values come from projections."""
    q: str = "q_proj"
    """The projection whose output is queries."""
    k: str = "k_proj"
    """The projection whose output is keys."""
    v: str = "v_proj"
    """All three the same module where they are fused."""
    key_value_heads: int | None = None
    """Where the config has no ``num_key_value_heads``; None for that, or else for as many as there are heads."""
    latent: Latent | None = None
    """Says how keys and values come of one small vector, where they do."""
    o: str = "o_proj"
    """The projection of all heads' outputs to the residual stream."""
    q_norm: str | None = None
    """A norm of queries, behind their projection."""
    k_norm: str | None = None
    """A norm of keys, behind their projection."""
    query_key_norm_axes: Literal["heads", "heads_first", "flat"] = "heads"
    """Axes of what the two norms see: [batch, position, head, d_head]; head before position; or heads in one vector."""
    inner_norms: tuple[str, ...] = ()
    """Other norms inside attention, which no rule touches."""
    left_padding: bool = True
    """False where attention counts columns of the batch, not positions, so that padding before a prompt changes it."""
    eager: bool = True
    """False where transformers' eager attention is not the model's: Falcon's linear biases are counted twice there
    (transformers 5.23). Only fused attention runs then, which shows no scores and patterns."""
    sinks: bool = False
    """The softmax has one entry more than there are keys (GPT-OSS)."""
    attention_post_norm: str | None = None
    """A norm between attention and the residual stream."""

    norm2: str | None = "post_attention_layernorm"
    """The norm before the MLP, where that has one of its own."""
    mlp: str | None = "mlp"
    """None where the block holds the MLP's projections itself (OPT)."""
    first: str | None = None
    """The MLP's first projection, named only where there is no module around the MLP."""
    activation: str = "act_fn"
    """The module that is the MLP's nonlinear function."""
    up: str | None = "up_proj"
    """The branch that the activated gate multiplies; None where there is no gate, or one module gives both."""
    gate_up: str | None = None
    """The module that gives the gate and, behind it, the branch that it multiplies."""
    down: str = "down_proj"
    """The MLP's last projection, whose input are its neurons."""
    mixture: Mixture | None = None
    """In layers whose MLP has these parts; others have a plain MLP."""
    mlp_post_norm: str | None = None
    """A norm between MLP and residual stream."""

    bridge: frozenset[str] = BRIDGE
    """Kinds of sites at which TransformerLens's bridge shows the same values; tests compare each. Where somebody's
    hooks edit the bridge, others are refused."""
    rotary_in_float32: bool = False
    """Queries and keys of a model in half precision are rotated in float32 and brought back; a bridge leaves it out."""
    unread: frozenset[str] = frozenset()
    """Kinds among them whose edits do not reach what follows in the bridge, and are refused too."""

    @property
    def editable(self) -> frozenset[str]:
        """Kinds of sites from whose changed value the bridge goes on; behind the logits there is nothing."""
        return self.bridge - self.unread - {"logits"}
