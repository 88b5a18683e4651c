"""What steering a policy does beside what it is for: to words about other things, and to actions."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import metrics
from interp.metrics import Estimate
from interp.models.feed_forward import Neuron
from interp.steering import effects as side_effects
from interp.vla.policy import words
from interp.vla.policy.policy import VLAPolicy
from interp.vla.policy.tokenizer import encode
from interp.vla.study.bench import steered
from interp.vla.study.rollouts import Inputs

_SENTENCES = 64


@dataclass(frozen=True, kw_only=True)
class PolicySideEffects:
    """KL(unsteered || steered), nats a token."""

    text: Estimate
    """Next words of sentences about concepts other than the steered one and its opposite; ± over sentences."""
    actions: Estimate
    """The first action token where the task is to reach the goal; ± over episodes."""


def measure(
    policy: VLAPolicy, concept: str, neurons: Sequence[Neuron], value: float, *, inputs: Inputs
) -> PolicySideEffects:
    """Both, actions at the states ``inputs``; the sentences are the same in every call."""
    text = side_effects.side_effects(
        policy.language_model, neutral_sentences(concept), lambda: steered(policy, neurons, value), batch=_SENTENCES
    )
    before = _action_logits(policy, inputs)
    with steered(policy, neurons, value):
        after = _action_logits(policy, inputs)
    return PolicySideEffects(text=text.kl, actions=metrics.mean(metrics.kl(before, after)))


def neutral_sentences(concept: str) -> Int[Tensor, "sentence position"]:
    """Sentences, all as long, about neither the concept nor its opposite."""
    rng = np.random.default_rng(0)
    avoided = {*words.CONCEPTS[concept], *words.CONCEPTS[words.ANTONYMS[concept]]}
    by_length: dict[int, list[list[int]]] = defaultdict(list)
    while True:
        sentence = words.synonym_sentence(rng)
        if not avoided & set(sentence.split()):
            alike = by_length[len(sentence.split())]
            alike.append(encode(sentence))
            if len(alike) == _SENTENCES:
                return torch.tensor(alike)


@torch.no_grad()
def _action_logits(policy: VLAPolicy, inputs: Inputs) -> Float[Tensor, "episode vocabulary"]:
    prompt = torch.tensor(encode(words.action_prompt(words.instruction(words.REACH))))
    embeddings = policy.embed(prompt.expand(len(inputs[0]), -1), *inputs)
    return policy.language_model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1).logits[:, -1]
