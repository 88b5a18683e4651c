"""Names of places that other tools write, as names of ours: of TransformerLens's hooks, of modules, of folders.

A name is translated only where it means one tensor. What cannot be told stays None: the reader says why, and whoever
loads the SAE passes ``site=`` (``--site``).
"""

import re
from pathlib import Path
from typing import Any, Literal

from interp.sites.site import Site

Side = Literal["input", "output"]

_BLOCK = re.compile(
    r"(?:(?:language_model|model|gpt_neox|transformer)\.)*(?:layers|h)\.(?P<layer>\d+)(?:\.(?P<part>[\w.]+))?"
)
_WITH_POST_NORMS = re.compile(r"gemma-?[23]|olmo-?[23]|glm-?4|exaone-?4", re.IGNORECASE)
_ATTENTION = ("attention", "attn", "self_attn", "self_attention")
_PARTS: dict[tuple[str, Side], str] = {
    ("", "input"): "hook_resid_pre",
    ("", "output"): "hook_resid_post",
    ("mlp", "input"): "mlp.hook_in",
    ("mlp", "output"): "hook_mlp_out",
    ("pre_feedforward_layernorm", "input"): "hook_resid_mid",
    ("pre_feedforward_layernorm", "output"): "mlp.hook_in",
    ("post_feedforward_layernorm", "output"): "hook_mlp_out",
    **{(name, "output"): "hook_attn_out" for name in _ATTENTION},
    **{(f"{name}.{out}", "input"): "attn.hook_z" for name in _ATTENTION for out in ("o_proj", "dense", "c_proj")},
}
_BEHIND_A_NORM = {("mlp", "output"), *((name, "output") for name in _ATTENTION)}
"""Where the model has a norm behind them, these are not what is added to the residual stream."""
_EMBEDDINGS = ("embed_tokens", "embed_in")
_NAMED = re.compile(r"(?P<kind>resid_pre|resid_mid|resid_post|attn_out|mlp_out)_layer_(?P<layer>\d+)")
_MLP_INPUTS = re.compile(r"blocks\.(\d+)\.(?:ln2\.hook_normalized|mlp\.hook_in|hook_mlp_in|hook_resid_mid)")


def has_post_norms(model: str | None) -> bool:
    """Whether models of this name have norms between attention or MLP and the residual stream."""
    return bool(model and _WITH_POST_NORMS.search(model))


def of_hook(name: Any, head: Any = None) -> str | None:
    """A site from TransformerLens's name, and from the number of a head where the SAE is of one.

    A name of TransformerLens's that is no site here stays as it is, so that an error can show it.
    """
    if not isinstance(name, str):
        return None
    if type(head) is int and not name.endswith("]"):
        name = f"{name}[{head}]"
    try:
        site = Site.parse(name)
        return str(site) if site.kind != "path" or "." in name else None  # one word is no place in any model
    except ValueError:
        return name if name.startswith(("blocks.", "hook_", "ln_final.")) else None


def split_head(site: str) -> tuple[str, int | None]:
    """The hook's name, and the number of the head where the site is of one."""
    found = re.fullmatch(r"(.*)\[(\d+)\]", site)
    return (site, None) if found is None else (found[1], int(found[2]))


def of_module(path: Any, side: Side = "output", *, model: str | None = None) -> str | None:
    """A site from a module of Hugging Face's and the side of it, such as ``layers.3.mlp`` of any model.

    Args:
        path: From the root of the model, or of its part without the unembedding. At its end may stand ``.input`` or
            ``.output``, which comes before ``side``.
        side: Which tensor of the module is meant.
        model: Name of the model; some have norms behind attention and MLP, where a module's output is another tensor.
    """
    if not isinstance(path, str):
        return None
    for ending in ("input", "output"):
        if path.endswith(f".{ending}"):
            path, side = path.removesuffix(f".{ending}"), ending
    if path.rpartition(".")[2] in _EMBEDDINGS and side == "output" and not _BLOCK.fullmatch(path):
        return "blocks.0.hook_resid_pre"
    found = _BLOCK.fullmatch(path)
    if found is None:
        return None
    layer, place = int(found["layer"]), (found["part"] or "", side)
    if place == ("post_attention_layernorm", "output"):
        return f"blocks.{layer}.{'hook_attn_out' if has_post_norms(model) else 'mlp.hook_in'}"
    if has_post_norms(model) and place in _BEHIND_A_NORM:
        return f"model.layers.{layer}.{found['part']}"
    return f"blocks.{layer}.{_PARTS[place]}" if place in _PARTS else None


def of_folder(path: Path) -> str | None:
    """A site from ``resid_post_layer_8`` anywhere in a path, the last one first, as SAEBench names its folders."""
    return next((site for part in reversed(path.parts) if (site := of_label(part)) is not None), None)


def of_label(text: Any) -> str | None:
    """A site from ``resid_post_layer_8``."""
    found = _NAMED.search(text) if isinstance(text, str) else None
    return None if found is None else f"blocks.{int(found['layer'])}.hook_{found['kind']}"


def mlp_output_behind(site: str | None) -> str | None:
    """The MLP's output in the layer whose MLP's input ``site`` is: the target of a transcoder that names none."""
    found = _MLP_INPUTS.fullmatch(site or "")
    return None if found is None else f"blocks.{found[1]}.hook_mlp_out"


def layer_in(path: Path, pattern: str = r"layer_(\d+)") -> int | None:
    """The number of a layer from a path, its last part first."""
    for part in reversed(path.parts):
        if found := re.search(pattern, part):
            return int(found[1])
    return None
