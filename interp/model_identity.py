"""Whether two names are of the same model, as far as names tell."""

import re
from typing import Literal

from interp.models.names import SHORT_NAMES, SMOLLM2

Relation = Literal["same", "related", "different", "unknown"]

_OTHER_NAMES = {
    "gpt2-small": "openai-community/gpt2",  # TransformerLens's name, which SAELens writes
    SMOLLM2: "HuggingFaceTB/SmolLM2-135M-Instruct",
}
_TRAINED_ON = {"instruct", "it", "chat", "base", "pt", "sft", "dpo"}
"""Words of a name that tell a base model from those that were trained on from it."""
_PACKED = re.compile(r"[.\-_](gguf|hf|bf16|fp?16|fp?32|awq|gptq|[48]bit|int[48]|i?q\d(_\w+)*)$")


def relation(one: str, other: str) -> Relation:
    """How the models of two names are related.

    ``same``: up to case, the hub's owner where only one name has it, short names, and how weights are packed.
    ``related``: base and instruct model, or equal names of two owners. ``unknown``: a folder or file whose name is not
    the other's.
    """
    if one == other:
        return "same"
    (owner, words), (other_owner, other_words) = _taken_apart(one), _taken_apart(other)
    if words == other_words:
        return "related" if owner and other_owner and owner != other_owner else "same"
    if [w for w in words if w not in _TRAINED_ON] == [w for w in other_words if w not in _TRAINED_ON]:
        return "related"
    return "unknown" if _is_path(one) or _is_path(other) else "different"


def _is_path(name: str) -> bool:
    return name.startswith(("/", "~", ".")) or "\\" in name or name.lower().endswith(".gguf")


def _taken_apart(name: str) -> tuple[str | None, list[str]]:
    """The hub's owner, and the words of the name."""
    full = SHORT_NAMES.get(name, _OTHER_NAMES.get(name, name)).replace("\\", "/").rstrip("/")
    owner, _, last = full.lower().rpartition("/")
    while (shorter := _PACKED.sub("", last)) != last:
        last = shorter
    return None if _is_path(name) or not owner else owner, re.split(r"[-_ ]+", last)
