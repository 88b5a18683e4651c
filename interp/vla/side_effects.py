"""What steering does beside what it is for: how far it moves the words and actions that it should leave alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import metrics
from interp.ffn import Neuron
from interp.metrics import Estimate
from interp.vla import words
from interp.vla.bench import steered
from interp.vla.policy import VLAPolicy
from interp.vla.rollouts import Inputs
from interp.vla.tokenizer import encode

_SENTENCES = 64


@dataclass(frozen=True, kw_only=True)
class SideEffects:
    """KL(unsteered || steered), nats a token."""

    text: Estimate
    """Next words of sentences about concepts other than the steered one and its opposite; ± over sentences."""
    actions: Estimate
    """The first action token where the task is to reach the goal; ± over episodes."""


def side_effects(
    policy: VLAPolicy, concept: str, neurons: Sequence[Neuron], value: float, *, inputs: Inputs
) -> SideEffects:
    """Measure both, actions at the states ``inputs``; the sentences are the same in every call."""
    neutral = _neutral_sentences(concept)
    clean = _text_logits(policy, neutral), _action_logits(policy, inputs)
    with steered(policy, neurons, value):
        other = _text_logits(policy, neutral), _action_logits(policy, inputs)
    text = [metrics.kl(a, b).mean() for a, b in zip(clean[0], other[0], strict=True)]
    return SideEffects(text=metrics.mean(torch.stack(text)), actions=metrics.mean(metrics.kl(clean[1], other[1])))


def _neutral_sentences(concept: str) -> list[Tensor]:
    rng = np.random.default_rng(0)
    avoided = {*words.CONCEPTS[concept], *words.CONCEPTS[words.ANTONYMS[concept]]}
    found: list[Tensor] = []
    while len(found) < _SENTENCES:
        sentence = words.synonym_sentence(rng)
        if not avoided & set(sentence.split()):
            found.append(torch.tensor(encode(sentence)))
    return found


@torch.inference_mode()
def _text_logits(policy: VLAPolicy, sentences: list[Tensor]) -> list[Float[Tensor, "position vocabulary"]]:
    return [policy.language_model(input_ids=ids[None], use_cache=False).logits[0] for ids in sentences]


@torch.inference_mode()
def _action_logits(policy: VLAPolicy, inputs: Inputs) -> Float[Tensor, "episode vocabulary"]:
    prompt = torch.tensor(encode(words.action_prompt(words.instruction(words.REACH))))
    embeddings = policy.embed(prompt.expand(len(inputs[0]), -1), *inputs)
    return policy.language_model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1).logits[:, -1]
