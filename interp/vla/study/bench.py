"""Measurements of conditions in closed loop, each made once and kept: a killed evaluation continues."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.files.differences import check_same
from interp.files.outside import read_json
from interp.files.seals import is_broken, write_sealed_json
from interp.models.feed_forward import Neuron, stack_of
from interp.models.fingerprint import weights_fingerprint
from interp.steering.edits import steer
from interp.vla.policy.policy import VLAPolicy
from interp.vla.policy.tokenizer import encode
from interp.vla.policy.words import action_prompt
from interp.vla.study.rollouts import STEPS, Arena, Inputs, Rollout

METRICS = ("speed", "right", "forward", "up")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the policy is told, and how it is steered; no neurons for not at all."""

    instruction: str
    """What the policy is told, in words."""
    neurons: tuple[Neuron, ...] = ()
    """Layer and number of each neuron that is set."""
    value: float = 0.0
    """What their activations are set to."""
    scope: str = "all"
    """At which positions they are set, by name."""
    steps: int = STEPS
    """The horizon; every episode is as long, whatever happens in it."""
    swap_images: bool = False
    """Each episode is shown the camera of another."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of a condition, one number an episode; episodes of the same arena are pairs."""

    speed: tuple[float, ...]
    """mm a step, as are the displacements."""
    right: tuple[float, ...]
    """Displacement to the right, in mm a step."""
    forward: tuple[float, ...]
    """Displacement forwards, in mm a step."""
    up: tuple[float, ...]
    """Displacement upwards, in mm a step."""
    success: tuple[bool, ...]
    """Whether the hand came within 5 cm of the goal."""
    length: tuple[int, ...]
    """Steps until then, or all of them."""
    clipped: tuple[float, ...]
    """Share of steps cut at the edge of the box."""
    words: tuple[float, ...]
    """Share of steps in which a word was likelier than every action."""

    @classmethod
    def of(cls, rollout: Rollout) -> "Measured":
        """What is kept of a rollout."""
        kept: dict[str, Any] = {name: rollout.measure(name) for name in METRICS}  # type: ignore[arg-type]
        kept |= {name: getattr(rollout, name) for name in ("success", "length", "clipped", "words")}
        return cls(**{name: tuple(values.tolist()) for name, values in kept.items()})


def steered(
    policy: VLAPolicy, neurons: Sequence[Neuron], value: float, scope: str = "all"
) -> AbstractContextManager[None]:
    """The paper's intervention on a policy, whose soft tokens are the image that ``scope`` means."""
    soft = torch.zeros(1, policy.soft_tokens.stop, dtype=torch.bool)
    soft[:, list(policy.soft_tokens)] = True
    return steer(policy, neurons=neurons, value=value, scope=scope, image_mask=soft)


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Natural sizes of neurons' activations: a strength means something only beside them."""

    median: float
    """Median over neurons and steps."""
    p99: float
    """What one activation in a hundred exceeds."""
    largest: float
    """The largest that was seen."""


@torch.no_grad()
def natural_activations(policy: VLAPolicy, instruction: str, inputs: Inputs) -> Activations:
    """Of all neurons at all positions of the prompt, magnitudes."""
    seen: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for down in stack_of(policy).down:
            hooks.callback(down.register_forward_pre_hook(lambda _, args: seen.append(args[0].abs().flatten())).remove)
        prompt = torch.tensor(encode(action_prompt(instruction)))
        policy.language_model(inputs_embeds=policy.embed(prompt.expand(len(inputs[0]), -1), *inputs), use_cache=False)
    values = torch.cat(seen).double().numpy()
    median, p99, largest = np.quantile(values, [0.5, 0.99, 1.0]).tolist()
    return Activations(median=median, p99=p99, largest=largest)


class Bench:
    """One policy in one arena."""

    def __init__(self, policy: VLAPolicy, arena: Arena, *, file: Path | None = None) -> None:
        """``file`` keeps what is measured, and gives back what it holds.

        Raises:
            ValueError: ``file`` is of another policy, other episodes.
        """
        self.policy, self.arena, self._file = policy, arena, file
        self.setting = {"policy": weights_fingerprint(policy), "episodes": arena.episodes, "seed": arena.seed}
        self._known: dict[str, dict[str, Any]] = {}
        if file is not None and file.exists():
            held = read_json(file)
            if is_broken(held):
                raise ValueError(f"{file} was altered: its checksum differs. Delete it: what it held is measured again")
            check_same(held["setting"], self.setting, where=file)
            self._known = held["measured"]

    def measure(self, condition: Condition) -> Measured:
        """Roll all episodes under a condition, unless that was done before."""
        key = json.dumps(asdict(condition))
        if key not in self._known:
            self._known[key] = asdict(Measured.of(self.roll(condition)))
            if self._file is not None:
                write_sealed_json(self._file, {"setting": self.setting, "measured": self._known})
        return Measured(**{name: tuple(values) for name, values in self._known[key].items()})

    def roll(self, condition: Condition) -> Rollout:
        """Roll all episodes under a condition."""
        with steered(self.policy, condition.neurons, condition.value, condition.scope):
            return self.arena.roll(
                self.policy, condition.instruction, steps=condition.steps, swap_images=condition.swap_images
            )
