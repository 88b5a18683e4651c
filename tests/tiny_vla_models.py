"""Tiny random vision-language(-action) models, built offline. OpenVLA, which transformers lacks, by its layout."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    GemmaConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PI0Config,
    PI0ForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

VOCAB, PADDED, IMAGE_TOKEN, WIDTH, PATCHES = 64, 70, 63, 32, 4
ACTIONS = 16
"""The last ids of OpenVLA's vocabulary here; transformers' models have none."""
_TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
_VISION: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
WORDS = "<pad> <s> </s> <unk> up higher raise lift down lower sink drop fast quick slow gentle move the arm now".split()


def paligemma() -> PaliGemmaForConditionalGeneration:
    return _built(lambda: PaliGemmaForConditionalGeneration(_paligemma_config()))


def pi0() -> PI0ForConditionalGeneration:
    expert = GemmaConfig(**_TEXT | {"hidden_size": 16, "intermediate_size": 24})
    config = PI0Config(
        vlm_config=_paligemma_config(),
        dit_config=expert,
        chunk_size=4,
        max_state_dim=5,
        max_action_dim=6,
        num_inference_steps=3,
    )
    return _built(lambda: PI0ForConditionalGeneration(config))


def pi0_observation(model: PI0ForConditionalGeneration) -> dict[str, Tensor]:
    """What ``sample_actions`` takes, noise included."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[IMAGE_TOKEN] * PATCHES + [1, 16, 17, 18]])
    return {
        "state": torch.randn(1, 5, generator=generator),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 1, 3, 28, 28, generator=generator),
        "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool),
        "noise": torch.randn(1, model.config.chunk_size, 6, generator=generator),
    }


def smolvlm() -> SmolVLMForConditionalGeneration:
    config = SmolVLMConfig(
        text_config=LlamaConfig(**_TEXT),
        vision_config=_VISION,
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return _built(lambda: SmolVLMForConditionalGeneration(config))


class OpenVLA(nn.Module):
    """OpenVLA's layout: a Llama under ``language_model``, patches put in behind BOS, padded rows in the unembedding."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="openvla", pad_to_multiple_of=PADDED - VOCAB)
        self.vocab_size = VOCAB
        self.projector = nn.Linear(12, WIDTH)
        self.language_model = LlamaForCausalLM(LlamaConfig(**_TEXT | {"vocab_size": PADDED}))

    def forward(self, input_ids: Tensor, pixel_values: Tensor, past_key_values: Any = None) -> Any:
        embedded = self.language_model.get_input_embeddings()(input_ids)
        if past_key_values is None:
            embedded = torch.cat([embedded[:, :1], self.projector(pixel_values), embedded[:, 1:]], 1)
        return self.language_model(inputs_embeds=embedded, past_key_values=past_key_values, use_cache=True)

    @torch.no_grad()
    def act(self, input_ids: Tensor, pixel_values: Tensor, *, dims: int = 7) -> Tensor:
        """Greedy action ids, each the most likely of the action tokens, with a cache."""
        cache, found = None, []
        for _ in range(dims):
            out = self(input_ids, pixel_values, cache)
            cache = out.past_key_values
            input_ids = out.logits[:, -1:, VOCAB - ACTIONS : VOCAB].argmax(-1) + VOCAB - ACTIONS
            found.append(input_ids)
        return torch.cat(found, 1)


def openvla() -> OpenVLA:
    return _built(OpenVLA)


def openvla_observation() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "input_ids": torch.tensor([[1, 16, 17, 18, 19]]),
        "pixel_values": torch.randn(1, PATCHES, 12, generator=generator),
    }


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; the ids of image and actions have no text."""
    words = {word: i for i, word in enumerate(WORDS)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _paligemma_config() -> PaliGemmaConfig:
    return PaliGemmaConfig(
        text_config=GemmaConfig(**_TEXT),
        vision_config=SiglipVisionConfig(**_VISION),
        image_token_id=IMAGE_TOKEN,
        projection_dim=WIDTH,
    )


def _built(build: Callable[[], Any]) -> Any:
    """With weights that are the same every time, and large enough that nothing is near zero."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = build()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()
