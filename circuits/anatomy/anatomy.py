"""The parts of a model that methods of this package rely on: those its family declares, and no norm beside them.

A family whose parts are not declared in ``interp.models.families`` is refused before anything runs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from interp.models.families.family import Family
from interp.models.families.fusion import embed, split
from interp.sites.parts import Block as Block
from interp.sites.parts import Parts as Anatomy
from interp.sites.parts import parts_of


def anatomy_of(model: Any) -> Anatomy:
    """Find the parts of a plain Hugging Face model or of a bridge.

    Raises:
        ValueError: a family that is not declared, or a block that has a part more or less than its family: what a rule
            would silently miss.

    Example:
        >>> import circuits.anatomy, interp
        >>> model = interp.load_model("embedded")
        >>> parts = circuits.anatomy.anatomy_of(model)
        >>> len(parts.blocks), parts.blocks[0].q is not None
        (4, True)
    """
    anatomy = parts_of(model)
    tuple(anatomy.blocks)
    _check_nothing_else_normalises(anatomy.root, anatomy.family, len(anatomy.blocks))
    return anatomy


def model_type(anatomy: Anatomy) -> str:
    """The family's name in the model's config."""
    config: Any = anatomy.root.config
    return str(config.model_type)


def part_of_projection(anatomy: Anatomy, number: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """What takes queries (0), keys (1) or values (2), ``[..., head, d_head]``, out of their module's output, and what
    puts them back among zeros."""
    fusion, heads, shared = anatomy.family.fusion, anatomy.heads, anatomy.key_value_heads
    return (
        partial(split, number=number, fusion=fusion, heads=heads, key_value_heads=shared),
        partial(embed, number=number, fusion=fusion, heads=heads, key_value_heads=shared),
    )


def require_final_norm(anatomy: Anatomy, *, purpose: str) -> nn.Module:
    """The norm between the residual stream and the unembedding.

    Raises:
        ValueError: there is none, naming ``purpose``.
    """
    if anatomy.final_norm is None:
        raise ValueError(f"cannot {purpose} a {model_type(anatomy)!r} model: it has no norm before its unembedding")
    return anatomy.final_norm


def require_experts_apart(anatomy: Anatomy, *, purpose: str) -> None:
    """Refuse a mixture of experts.

    Raises:
        ValueError: naming ``purpose``.
    """
    if anatomy.family.mixture is not None:
        raise ValueError(
            f"cannot {purpose} a {model_type(anatomy)!r} model: its MLPs are mixtures of experts, and the"
            " products with the router's weights have no rule. Exact patching, 'atp' and 'atp-star' need none"
        )


def require_heads_apart(anatomy: Anatomy, *, purpose: str) -> None:
    """Refuse heads whose queries and keys share one norm, so that what enters one of them changes the others.

    Raises:
        ValueError: naming ``purpose``.
    """
    if anatomy.family.q_norm is not None and anatomy.family.query_key_norm_axes == "flat":
        raise ValueError(
            f"cannot {purpose} a {model_type(anatomy)!r} model: one norm goes over the queries (another over the keys)"
            " of all heads, so that a change of one head changes the others"
        )


def _check_nothing_else_normalises(root: Any, family: Family, layers: int) -> None:
    """A norm beside the listed ones would keep its plain gradient without anybody noticing."""
    names = (family.norm1, family.attention_post_norm, family.norm2, family.mlp_post_norm)
    inner = (family.q_norm, family.k_norm, *family.inner_norms)
    known = {f"{family.blocks}.{layer}.{name}" for layer in range(layers) for name in names if name is not None}
    known |= set() if family.final_norm is None else {family.final_norm}
    inside = {f"{family.blocks}.{layer}.{family.attention}.{name}" for layer in range(layers) for name in inner if name}
    found = {_plain_path(name) for name, module in root.named_modules() if "norm" in type(module).__name__.lower()}
    unknown = sorted(name for name in found - known - inside if not any(name.startswith(f"{norm}.") for norm in inside))
    if unknown:
        raise ValueError(f"{type(root).__name__} has norms that no rule knows: {', '.join(unknown[:4])}")


def _plain_path(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_original_component")
