"""Which training steps a sweep visits."""

from collections.abc import Collection

import numpy as np

PYTHIA_STEPS = (0, *(2**i for i in range(10)), *range(1000, 144_000, 1000))
"""The 154 steps of which every Pythia has, or should have, a revision."""
_TOKENS = {"embedded": 16 * 256, "EleutherAI/pythia-": 1024 * 2048}
"""Tokens that a step of training reads, by how the name of the run begins."""
_LATE = 26
"""Steps after 512 in the schedule ``paper``: with 0 and the powers of two, 37 for Pythia."""


def choose_steps(wanted: str, steps: Collection[int]) -> list[int]:
    """Steps to visit, ascending: of ``steps``, which exist or should, those that ``wanted`` names.

    ``all`` takes all of them. ``log`` takes the first, then each that is at least twice the one before, and the last.
    ``paper`` takes those up to 512 and 26 of the others, evenly spaced to the last: as many as arXiv 2508.03616 has
    (which does not list its own). Otherwise ``wanted`` is a list such as ``0,512,143000``, taken as it is.

    Raises ValueError for anything else.

    Example:
        >>> from interp.checkpoints import choose_steps
        >>> choose_steps("log", [0, 1, 2, 3, 4, 5])
        [0, 1, 2, 4, 5]
    """
    there = sorted(set(steps))
    if wanted == "all":
        return there
    if wanted == "log":
        chosen = there[:1]
        for step in there[1:]:
            if step >= 2 * chosen[-1]:
                chosen.append(step)
        return sorted({*chosen, *there[-1:]})
    if wanted == "paper":
        late = [step for step in there if step > 512]
        picks = np.unique(np.linspace(0, len(late) - 1, min(_LATE, len(late))).round().astype(int))
        return [step for step in there if step <= 512] + [late[i] for i in picks]
    try:
        listed = sorted({int(step) for step in wanted.split(",")})
    except ValueError:
        listed = []
    if not listed or listed[0] < 0:
        raise ValueError(f"steps {wanted!r} are neither all, log, paper nor a list such as 0,512,143000")
    return listed


def tokens_per_step(name: str) -> int | None:
    """How many tokens each step of a known training run reads; None where that is not known here.

    Example:
        >>> from interp.checkpoints.schedules import tokens_per_step
        >>> tokens_per_step("EleutherAI/pythia-70m")
        2097152
    """
    return next((count for begin, count in _TOKENS.items() if name.startswith(begin)), None)
