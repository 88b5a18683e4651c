"""SAEs that are one pickled dictionary each, read with ``weights_only=True``: OpenAI's, Goodfire's, DeepSeek-R1's,
Qwen-Scope's, and the attention SAEs of Kissane et al.

Nothing but their keys tells them apart, and nothing but the names of files and folders says where most belong.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.files.outside import read_json
from saes.activations import Activation, ReLU, TopK
from saes.convert.record import Record, imported
from saes.convert.site_names import layer_in, of_hook
from saes.convert.weights import read_pickled_tensors, whole_number

_ENDINGS = (".pt", ".pth")


def recognises(folder: Path) -> bool:
    """Whether ``folder`` is such a file, or holds exactly one and no configuration."""
    return _file(folder) is not None


def _file(folder: Path) -> Path | None:
    if folder.is_file() and folder.suffix in _ENDINGS:
        return folder
    if not folder.is_dir() or (folder / "config.json").exists():
        return None
    files = [path for path in folder.iterdir() if path.suffix in _ENDINGS]
    return files[0] if len(files) == 1 else None


def read(folder: Path) -> Record:
    """Whichever of them it is, by the tensors that it holds.

    Raises:
        ValueError: it is none of them, or holds a tensor that its kind does not use; the message says which.
    """
    path = _file(folder)
    assert path is not None
    found = read_pickled_tensors(path)
    for name, kind in _KINDS.items():
        if kind.needs <= set(found):
            if unknown := sorted(map(str, set(found) - kind.needs - kind.may_have)):
                raise ValueError(f"{path}: no rule of {name}'s SAEs uses {', '.join(unknown)}, which the file holds")
            return kind.read(found, path)
    keys = ", ".join(sorted(map(str, found))[:12])
    raise ValueError(f"{path} holds {keys}: no SAE of a known kind ({', '.join(_KINDS)})")


def _openai(found: dict[str, Any], path: Path) -> Record:
    """Their TopK SAE, which takes each activation minus its mean, over its deviation, or their ReLU one of plain ones.

    The file does not say so: their loader goes by the activation's name, too.
    """
    options = found.get("activation_state_dict", {})
    name, after = found.get("activation", "ReLU"), options.get("postact_fn", "ReLU")
    if name not in ("ReLU", "TopK") or after != "ReLU":
        raise ValueError(f"{path}: the activation {name!r} followed by {after!r} has no counterpart here")
    activation: Activation = TopK(whole_number(options["k"], name="k", where=path)) if name == "TopK" else ReLU()
    parts = path.resolve().parts
    location = next((match[1] for part in parts if (match := _LOCATION.fullmatch(part))), None)
    site, facts = None, {"place": "its path is not as theirs are, resid_post_mlp_v5_32k/autoencoders/6.pt"}
    if location is not None and path.stem.isdigit():
        site = f"blocks.{int(path.stem)}.{_HOOKS[location]}"
        facts = {"model": "gpt2", "text": {"context": 64, "bos": "never"}}  # type: ignore[dict-item]
    return Record(
        activation=activation,
        weights=_linear(found, "encoder", "decoder", b_enc="latent_bias", b_dec="pre_bias"),
        where=path,
        layer_norm=name == "TopK",
        site=site,
        provenance=imported("openai", **facts),
    )


_LOCATION = re.compile(r"(resid_post_mlp|resid_post_attn|resid_delta_mlp|resid_delta_attn|mlp_post_act)(_v\d.*)?")
_HOOKS = {
    "resid_post_mlp": "hook_resid_post",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_delta_attn": "hook_attn_out",
    "mlp_post_act": "mlp.hook_post",
}


def _goodfire(found: dict[str, Any], path: Path) -> Record:
    return _of_named_file(found, path, "goodfire", "encoder_linear", "decoder_linear")


def _deepseek(found: dict[str, Any], path: Path) -> Record:
    return _of_named_file(found, path, "deepseek_r1", "encoder", "decoder")


def _of_named_file(found: dict[str, Any], path: Path, form: str, encoder: str, decoder: str) -> Record:
    """A ReLU SAE of the residual stream, whose file is called ``Llama-3.1-8B-Instruct-SAE-l19.pth``."""
    named = next((match for part in reversed(path.parts) if (match := _NAMED.search(Path(part).name))), None)
    place = "its file's name is not as theirs are, Llama-3.1-8B-Instruct-SAE-l19.pth" if named is None else None
    return Record(
        activation=ReLU(),
        weights=_linear(found, encoder, decoder, b_enc=f"{encoder}.bias", b_dec=f"{decoder}.bias"),
        where=path,
        subtract_b_dec=False,
        site=None if named is None else f"blocks.{int(named['layer'])}.hook_resid_post",
        provenance=imported(form, model=None if named is None else _with_owner(named["model"]), place=place),
    )


_NAMED = re.compile(r"(?P<model>[A-Za-z0-9.-]+?)-SAE-l(?P<layer>\d+)")


def _with_owner(model: str) -> str:
    return f"{'deepseek-ai' if model.startswith('DeepSeek') else 'meta-llama'}/{model}"


def _qwen_scope(found: dict[str, Any], path: Path) -> Record:
    """TopK of the residual stream; k stands in the repository's name alone."""
    if path.with_name(f"{path.stem}_cfg.json").is_file():
        return _hook_z(found, path)
    named = next((match for part in reversed(path.resolve().parts) if (match := _QWEN.search(part))), None)
    if named is None:
        raise ValueError(
            f"{path}: this looks like an SAE of Qwen-Scope, whose k is in the name of its repository alone: keep it in"
            " a folder called as that is, SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"
        )
    layer = layer_in(Path(path.name), r"layer(\d+)\.sae")
    return Record(
        activation=TopK(int(named["k"])),
        weights={
            "W_enc": found["W_enc"].T,
            "W_dec": found["W_dec"].T,
            "b_enc": found["b_enc"],
            "b_dec": found["b_dec"],
        },
        where=path,
        subtract_b_dec=False,
        site=None if layer is None else f"blocks.{layer}.hook_resid_post",
        provenance=imported(
            "qwen_scope",
            model=f"Qwen/{named['model']}",
            place="its file's name is not as theirs are, layer3.sae.pt" if layer is None else None,
        ),
    )


_QWEN = re.compile(r"SAE-Res-(?P<model>.+)-W\d+K-L0_(?P<k>\d+)")


def _hook_z(found: dict[str, Any], path: Path) -> Record:
    """Kissane et al.'s ReLU SAEs of all heads' z; ``NAME_cfg.json`` beside ``NAME.pt`` says of which layer."""
    config = read_json(path.with_name(f"{path.stem}_cfg.json"))
    return Record(
        activation=ReLU(),
        weights=found,
        where=path,
        site=of_hook(config.get("act_name")),
        provenance=imported("hook_z", config=config, model="gpt2", text={"context": 128, "bos": "row"}),
    )


def _linear(found: dict[str, Any], encoder: str, decoder: str, *, b_enc: str, b_dec: str) -> dict[str, Any]:
    """Weights from matrices of torch.nn.Linear."""
    return {
        "W_enc": found[f"{encoder}.weight"].T,
        "W_dec": found[f"{decoder}.weight"].T,
        "b_enc": found[b_enc],
        "b_dec": found[b_dec],
    }


@dataclass(frozen=True, kw_only=True)
class _Kind:
    needs: frozenset[str]
    may_have: frozenset[str] = frozenset()
    read: Callable[[dict[str, Any], Path], Record]


def _parts(encoder: str, decoder: str) -> frozenset[str]:
    return frozenset(f"{part}.{name}" for part in (encoder, decoder) for name in ("weight", "bias"))


_KINDS: dict[str, _Kind] = {
    "OpenAI": _Kind(
        needs=frozenset({"encoder.weight", "decoder.weight", "latent_bias", "pre_bias"}),
        may_have=frozenset({"activation", "activation_state_dict", "stats_last_nonzero"}),
        read=_openai,
    ),
    "Goodfire": _Kind(needs=_parts("encoder_linear", "decoder_linear"), read=_goodfire),
    "DeepSeek-R1": _Kind(needs=_parts("encoder", "decoder"), read=_deepseek),
    "Qwen-Scope": _Kind(needs=frozenset({"W_enc", "W_dec", "b_enc", "b_dec"}), read=_qwen_scope),
}
