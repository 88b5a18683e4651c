"""Scripted experts: a direction, or the goal, at one of three speeds."""

import numpy as np
from jaxtyping import Float

from interp.vla.policy.words import REACH
from interp.vla.simulator import Observation

MAGNITUDE = {"fast": 0.9, "medium": 0.5, "slow": 0.2}
"""Length of an action by speed, in units of 1 cm a step."""
NOISE = 0.03
"""Standard deviation of what is added to each entry."""
_UNIT = {
    "up": (0, 0, 1),
    "down": (0, 0, -1),
    "left": (-1, 0, 0),
    "right": (1, 0, 0),
    "forward": (0, 1, 0),
    "back": (0, -1, 0),
}
_GAIN = 10.0
"""The expert that reaches slows down over the last centimetres: action per metre of distance."""


def act(task: str, speed: str, seen: Observation, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """The action of the expert for ``task`` (a direction or "reach") at ``speed``."""
    if task == REACH:
        offset = seen.goal - seen.hand
        distance = float(np.linalg.norm(offset))
        wanted = offset / max(distance, 1e-9) * min(MAGNITUDE[speed], _GAIN * distance)
    else:
        wanted = np.array(_UNIT[task]) * MAGNITUDE[speed]
    return np.clip(wanted + rng.normal(0, NOISE, 3), -1, 1)
