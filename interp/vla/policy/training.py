"""Behaviour cloning with co-training: action tokens, questions about the same scene, and sentences of text alone.

The batch at a step depends on the seed and the step alone, and the optimiser is saved with the weights: a killed run
continues from its last save as if nothing had happened.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.files.differences import check_same
from interp.files.folder_lock import alone_in
from interp.files.outside import read_json
from interp.files.tensor_files import read_sealed, write_sealed
from interp.files.writing import write_json
from interp.inference_mode import refuse_inference_mode
from interp.terminal.progress import progress
from interp.vla.policy import words
from interp.vla.policy.demonstrations import EPISODES, Demonstrations, demonstrate
from interp.vla.policy.policy import PolicyConfig, VLAPolicy
from interp.vla.policy.tokenizer import ACTIONS, PAD, encode

logger = logging.getLogger(__name__)

_DEMONSTRATIONS = "demonstrations"
_IGNORED = -100
"""Label of a token that is not predicted."""
_BETAS, _WEIGHT_DECAY, _WARMUP, _CLIP = (0.9, 0.95), 0.01, 50, 1.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    """Of the demonstrations, the first weights and the batches."""
    steps: int = 1000
    """How many optimiser steps are taken."""
    camera: int | None = None
    """Width of the camera image, pixels; None for a policy that is told where the goal is."""
    language_steps: int = 300
    """Of the steps, those before the first action token: questions and sentences alone, as a language model comes
    before a policy."""
    text_weight: float = 0.5
    """Of the loss on sentences; 0 for no text co-training."""
    action_rows: int = 32
    """Steps of demonstrations in a batch."""
    question_rows: int = 16
    """Questions about a scene in a batch."""
    text_rows: int = 16
    """Sentences of plain text in a batch."""
    learning_rate: float = 2e-3
    """Largest learning rate of the schedule."""
    episodes: int = EPISODES
    """How many episodes are demonstrated."""

    def check(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("steps", "episodes", "action_rows", "question_rows", "text_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not 0 <= self.language_steps <= self.steps:
            raise ValueError(f"language_steps is {self.language_steps}; it must be from 0 to steps, {self.steps}")
        if self.camera is not None and not 32 <= self.camera <= 256:
            raise ValueError(f"camera is {self.camera} pixels; from 32 to 256 are of use (64 is enough)")
        if self.text_weight < 0:
            raise ValueError(f"text_weight is {self.text_weight}; it must be 0 (no text co-training) or more")


@torch.enable_grad()
def train(recipe: Recipe, out: Path, *, save_every: int = 250) -> VLAPolicy:
    """Demonstrate, train and write the policy to ``out``; the same call continues what a killed one left.

    Raises:
        ValueError: a recipe that cannot be; ``out`` holds a run of another.
    """
    refuse_inference_mode("training a policy")
    recipe.check()
    with alone_in(out, below=[_DEMONSTRATIONS]):
        _claim(out, recipe)
        return _train(recipe, out, save_every=save_every)


def _train(recipe: Recipe, out: Path, *, save_every: int) -> VLAPolicy:
    demonstrations = demonstrate(
        out / _DEMONSTRATIONS, seed=recipe.seed, camera=recipe.camera, episodes=recipe.episodes
    )
    torch.manual_seed(recipe.seed)
    policy = VLAPolicy(PolicyConfig(camera=recipe.camera))
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=recipe.learning_rate, betas=_BETAS, weight_decay=_WEIGHT_DECAY
    )
    state_file = out / "state.safetensors"
    try:
        first = _load_state(policy, optimizer, state_file) if state_file.exists() else 0
    except ValueError as error:
        first = 0
        logger.warning("%s; not used, training starts over", error)
    with progress("train", recipe.steps, done=first, unit="steps") as advance:
        for step in range(first, recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
            losses = _losses(policy, demonstrations, recipe, step)
            optimizer.zero_grad()
            (losses["scene"] + recipe.text_weight * losses.get("text", 0.0) + losses.get("goal", 0.0)).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), _CLIP)
            optimizer.step()
            done = step + 1
            if done % save_every == 0 or done == recipe.steps:
                _save_state(policy, optimizer, done, state_file)
            advance(1, ", ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()))
    policy.save(out, notes={"recipe": asdict(recipe)})
    return policy.eval()


def _claim(out: Path, recipe: Recipe) -> None:
    """Note the recipe in ``out``, or check that it is the one noted there."""
    file = out / "recipe.json"
    if file.exists():
        check_same(read_json(file), asdict(recipe), where=out)
    else:
        write_json(file, asdict(recipe))


def _losses(policy: VLAPolicy, demonstrations: Demonstrations, recipe: Recipe, step: int) -> dict[str, Tensor]:
    """Mean cross-entropy, nats a token: over action tokens and answers, and over the words of sentences. With a camera
    also the squared error of the goal's place as read off the image, in units of 20 cm."""
    rng = np.random.default_rng([recipe.seed, step])
    action_rows = recipe.action_rows if step >= recipe.language_steps else 0
    rows = rng.choice(len(demonstrations), action_rows + recipe.question_rows, replace=False)
    texts = []
    for i, row in enumerate(rows):
        task = words.TASKS[demonstrations.task[row]]
        speed = list(words.SPEEDS)[demonstrations.speed[row]]
        if i < action_rows:
            prompt = encode(words.action_prompt(words.instruction(task, speed, rng=rng)))
            texts.append((prompt, ACTIONS.encode(demonstrations.action[row]).tolist()))
        else:
            asked = encode(words.question(task, speed, rng))
            texts.append((asked[:-2], asked[-2:]))  # the answer, and the end
    ids, labels = _padded(texts)
    hand, goal = (torch.from_numpy(values[rows]) for values in (demonstrations.hand, demonstrations.goal))
    image = None if demonstrations.image is None else torch.from_numpy(demonstrations.image[rows])
    embeddings = policy.embed(ids, hand, goal, image)
    soft = torch.full((len(rows), len(policy.soft_tokens)), _IGNORED)
    losses = {"scene": _cross_entropy(policy, embeddings, torch.cat([labels[:, :1], soft, labels[:, 1:]], dim=1))}
    if policy.image_projector is not None and image is not None:
        error = policy.image_projector.goal(policy.image_projector.places(image)) - policy.normalised(goal)
        losses["goal"] = error.square().mean()
    # Drawn even where they weigh nothing, so that runs with and without text see the same scenes.
    sentences = [encode(words.synonym_sentence(rng)) for _ in range(recipe.text_rows)]
    if recipe.text_weight:
        ids, labels = _padded([([], sentence) for sentence in sentences])
        embeddings = policy.language_model.get_input_embeddings()(ids)
        losses["text"] = _cross_entropy(policy, embeddings, labels)
    return losses


def _padded(
    texts: list[tuple[list[int], list[int]]],
) -> tuple[Int[Tensor, "row position"], Int[Tensor, "row position"]]:
    """Token ids and labels of (context, predicted) pairs; padding on the right is seen by no token before it."""
    length = max(len(context) + len(predicted) for context, predicted in texts)
    ids = torch.full((len(texts), length), PAD)
    labels = torch.full_like(ids, _IGNORED)
    for i, (context, predicted) in enumerate(texts):
        whole = torch.tensor(context + predicted)
        ids[i, : len(whole)] = whole
        labels[i, len(context) : len(whole)] = whole[len(context) :]
    return ids, labels


def _cross_entropy(
    policy: VLAPolicy, embeddings: Float[Tensor, "row position hidden"], labels: Int[Tensor, "row position"]
) -> Float[Tensor, ""]:
    """Logits are computed only where something is predicted."""
    hidden = policy.language_model.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state[:, :-1]
    predicted = labels[:, 1:] != _IGNORED
    logits = policy.language_model.lm_head(hidden[predicted])
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][predicted])


def _schedule(step: int, last: int) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    return min(1.0, (step + 1) / _WARMUP) * (0.05 + 0.475 * (1 + float(np.cos(np.pi * step / last))))


def _save_state(policy: VLAPolicy, optimizer: torch.optim.Optimizer, step: int, file: Path) -> None:
    """Weights and the optimiser's moments in one file."""
    tensors = {f"model/{name}": tensor for name, tensor in policy.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam/{i}/{name}": tensor for name, tensor in state.items()}
    write_sealed(file, tensors, {"step": str(step)})


def _load_state(policy: VLAPolicy, optimizer: torch.optim.Optimizer, file: Path) -> int:
    """Put a saved state back and return its step.

    Raises ValueError, and changes nothing, where the file is damaged.
    """
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    tensors, metadata = read_sealed(file)
    for key, tensor in tensors.items():
        owner, name = key.split("/", 1)
        if owner == "model":
            weights[name] = tensor
        else:
            index, name = name.split("/")
            moments.setdefault(int(index), {})[name] = tensor
    policy.load_state_dict(weights)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(metadata["step"])
