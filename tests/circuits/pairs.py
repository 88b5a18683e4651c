"""Tiny models and random pairs of prompts for the tests of circuits."""

import copy
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import PreTrainedModel, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from circuits import Task
from tests.tiny_models import _GROUPED, _SHARED, FAMILIES, VOCAB, tiny_model

ALL_FAMILIES = (*FAMILIES, "qwen2")
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "granitemoe", "llama4_text")
LATENT_ATTENTION = ("deepseek_v2", "deepseek_v3")
"""Mixtures too, whose keys and values are made of one small vector."""
WIRED = (
    *ALL_FAMILIES, *(case for case in MIXTURES if case != "llama4_text"), "gpt_neox_sequential", "gemma3_mixed",
    "gemma", "mistral", "qwen3", "smollm3", "olmo", "olmo2", "olmo3", "exaone4", "glm4", "granite", "cohere",
    "cohere_normed", "stablelm", "stablelm_parallel", "starcoder2", "phi", "phi_normed", "phi3", "gptj", "gpt_neo",
    "falcon_7b", "falcon_40b", "falcon_11b", "falcon_1b",
)  # fmt: skip
"""Where edges are known and compared; in every other tiny model they are refused."""
LENGTH, DIFFERS_AT = 7, 3


def model_of(family: str, *, dtype: torch.dtype = torch.float32, biases: bool = True) -> PreTrainedModel:
    """A tiny model, also of the family that ``interp`` does not test; optionally without any bias."""
    if family == "qwen2":
        torch.manual_seed(0)
        shared = {name: value for name, value in _GROUPED.items() if name != "head_dim"}
        model = AutoModelForCausalLM.from_config(Qwen2Config(**_SHARED, **shared), attn_implementation="eager")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model = model.to(dtype).eval()
    else:
        model = tiny_model(family, dtype=dtype)
    model.config = copy.deepcopy(model.config)  # a test may change it
    if not biases:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
    return model


def precise(family: str) -> PreTrainedModel:
    """In float64; experts are multiplied in float32 at most, and XGLM's attention cannot do more."""
    return model_of(family, dtype=torch.float32 if family in (*MIXTURES, *LATENT_ATTENTION, "xglm") else torch.float64)


def bridge_of(model: PreTrainedModel) -> TransformerBridge:
    return build_bridge_from_module(
        model, type(model).__name__, hf_config=model.config, tokenizer=None, model_name=model.config.model_type
    ).eval()


def random_task(*, n: int = 2, **options: Any) -> Task:
    """Prompts that differ in one token, so that positions before it have no effect."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(VOCAB, (n, LENGTH), generator=generator)
    corrupt = clean.clone()
    corrupt[:, DIFFERS_AT] = (clean[:, DIFFERS_AT] + 5) % VOCAB
    answers = torch.randperm(VOCAB, generator=generator)[: 2 * n]
    return Task(clean=clean, corrupt=corrupt, correct=answers[:n], wrong=answers[n:], **options)
