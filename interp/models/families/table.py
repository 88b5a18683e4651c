"""The table itself: ``config.model_type`` -> what is known of a model's parts."""

from collections.abc import Callable
from typing import Any

from interp.models.families import gemma, gpt, llama, mixtures
from interp.models.families.family import Family

FAMILIES: dict[str, Family | Callable[[Any], Family]] = {
    "gpt2": gpt.GPT2,
    "gpt_neo": gpt.GPT_NEO,
    "gpt_neox": gpt.gpt_neox,
    "gptj": gpt.GPTJ,
    "opt": gpt.opt,
    "xglm": gpt.XGLM,
    "falcon": gpt.falcon,
    "phi": gpt.phi,
    "starcoder2": gpt.STARCODER2,
    "llama": llama.LLAMA,
    "mistral": llama.LLAMA,
    "qwen2": llama.LLAMA,
    "smollm3": llama.LLAMA,
    "olmo": llama.OLMO,
    "qwen3": llama.QWEN3,
    "phi3": llama.PHI3,
    "granite": llama.granite,
    "cohere": llama.cohere,
    "stablelm": llama.stablelm,
    "gemma": llama.LLAMA,
    "gemma2": gemma.GEMMA2,
    "gemma3_text": gemma.GEMMA3,
    "glm4": gemma.GLM4,
    "olmo2": gemma.OLMO2,
    "olmo3": gemma.OLMO2,
    "exaone4": gemma.EXAONE4,
    "mixtral": mixtures.MIXTRAL,
    "qwen2_moe": mixtures.MIXTRAL,
    "qwen3_moe": mixtures.QWEN3_MOE,
    "olmoe": mixtures.OLMOE,
    "gpt_oss": mixtures.GPT_OSS,
    "granitemoe": mixtures.granitemoe,
    "llama4_text": mixtures.LLAMA4,
    "deepseek_v2": mixtures.deepseek,
    "deepseek_v3": mixtures.deepseek,
}
"""A declaration, or a function of the model's config that gives it."""
NOT_DECLARED = {
    "bloom": "its MLP and attention add the residual stream themselves",
    "mamba": "it has neither attention nor an MLP",
    "openai-gpt": "its blocks and its attention return lists, and it runs without a cache",
    "qwen3_next": "most of its blocks have a recurrent layer in the place of attention, which shows no patterns",
}
"""Families that people ask for, and why they have no declaration."""
COMPARED_IN_ALL = ("gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama")
"""Those in which everything of the packages was compared: what is measured through training is refused in others."""


def declared(config: Any) -> Family | None:
    """The declaration for a model's config; None for a family that has none.

    Example:
        >>> from transformers import BertConfig
        >>> from interp.models.families import declared
        >>> print(declared(BertConfig()))
        None
    """
    found = FAMILIES.get(getattr(config, "model_type", None) or "")
    return found(config) if callable(found) else found


def reason(name: str | None) -> str:
    """Why a family is not declared, to stand behind its name; empty for one that nobody tried."""
    why = NOT_DECLARED.get(name or "")
    return f" ({why})" if why else ""


def family_of(config: Any) -> Family:
    """The declaration for a model's config.

    Raises:
        ValueError: there is none.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.models.families.family_of(model.original_model.config).blocks
        'gpt_neox.layers'
    """
    family = declared(config)
    if family is None:
        name = getattr(config, "model_type", None)
        raise ValueError(
            f"the parts of a {name!r} block are not known{reason(name)}; families declared are {', '.join(FAMILIES)}."
            " Another is one declaration in interp/models/families and one tiny model in tests/tiny_models.py (see"
            " CONTRIBUTING.md)"
        )
    return family
