"""The whole evaluation of one concept: strengths, instructions, scopes, layers, the word itself, and side effects."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from interp.files.folder_lock import alone_in
from interp.files.writing import write_json
from interp.metrics import Estimate
from interp.models.feed_forward import Neuron
from interp.steering.positions import SCOPES
from interp.terminal.progress import counted
from interp.vla.policy import words
from interp.vla.policy.policy import VLAPolicy
from interp.vla.study import effects as side_effects
from interp.vla.study.bench import Activations, Bench, Condition, Measured, natural_activations
from interp.vla.study.contests import TARGETS, Contest, Dose, Share, contest, difference, dose, share
from interp.vla.study.rollouts import STEPS, Arena

logger = logging.getLogger(__name__)

DOSES = (2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 20.0)
_REACHING = 3
"""Horizons that it takes to reach a goal at medium speed."""
INSTRUCTIONS = ("move up", "move left", "reach the goal")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure.

    Example:
        >>> from interp.vla.study import Options
        >>> Options(concept="slow").sets
        40
    """

    concept: str = "fast"
    """One of fast, slow, up, down, left, right, forward, back."""
    instruction: str | None = None
    """Of the dose curve; by default "move up", and "move left" where height is what should change."""
    value: float = 2.0
    """Strength at which everything but the dose curve is measured."""
    doses: tuple[float, ...] = DOSES
    """Strengths of the dose curve, ascending."""
    top: int = 20
    """Neurons in a cluster."""
    method: str = "logit"
    """How neurons of a concept are found: ``logit`` or ``neighbours``."""
    sets: int = 40
    """How many matched random sets there are."""
    episodes: int = 8
    """Episodes of every condition, which are pairs between conditions."""
    steps: int = STEPS
    """Horizon of every episode; three times as many where success is counted."""
    seed: int = 0
    """Of the random sets."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of a condition on "reach the goal"."""

    success: Share
    """Share of episodes that reached the goal."""
    length: float
    """Mean steps until the goal, or the horizon."""
    clipped: float
    """Share of steps cut at the edge of the box."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything measured of one concept.

    Example:
        >>> from pathlib import Path
        >>> import interp
        >>> from interp.vla.study import Arena
        >>> from interp.vla.study.study import Options, study
        >>> policy = interp.vla.policy.load_policy("state")
        >>> options = Options(concept="fast", doses=(2.0,), sets=2, episodes=2, steps=2)
        >>> found = study(policy, Arena([0, 1]), options, name="state", out=Path("study"))
        >>> found.headline.value, found.headline.verdict
        (2.0, 'cannot tell: 2 random sets, and it takes 19 for p to reach 0.05')
    """

    options: Options
    """What was asked to be measured."""
    date: str
    """Day of the measurement, year first."""
    policy: str
    """Name of the policy that was steered."""
    instruction: str
    """Of the dose curve."""
    setting: dict[str, Any]
    """Fingerprint, episodes, seed and horizon."""
    between: Contest
    """The neurons, and those that they are compared with."""
    natural: Activations
    """Of the unsteered policy on the instruction; compare strengths with it."""
    baseline: dict[str, float]
    """Mean speed and displacements of the unsteered policy on the instruction, mm a step."""
    word: Estimate
    """Effect of saying the word in the instruction, mm a step."""
    doses: tuple[Dose, ...]
    """Effects at each strength, in order."""
    damage_from: float | None
    """The least strength at which random sets leave ± 0.5 mm a step."""
    instructions: dict[str, Dose]
    """The same at one strength, by instruction."""
    scopes: dict[str, dict[str, float]]
    """Instruction -> scope -> effect, mm a step."""
    layers: dict[str, Dose]
    """The same with neurons of some layers alone, by their name."""
    outcomes: dict[str, Outcome]
    """Condition -> what becomes of "reach the goal"."""
    side_effects: side_effects.PolicySideEffects
    """What steering does to the rest of what the policy says."""
    random_side_effects: tuple[side_effects.PolicySideEffects, ...]
    """The same of every random set."""

    @property
    def headline(self) -> Dose:
        """The dose at the strength asked for."""
        return next(each for each in self.doses if each.value == self.options.value)


def study(
    policy: VLAPolicy,
    arena: Arena,
    options: Options,
    *,
    name: str,
    out: Path,
) -> Study:
    """Measure, and write ``study.json`` to ``out``; what was measured before a kill is not measured again.

    Raises:
        ValueError: an unknown concept or word; too few neurons for the random sets.
    """
    with alone_in(out):
        return _study(policy, arena, options, name=name, out=out)


def _study(policy: VLAPolicy, arena: Arena, options: Options, *, name: str, out: Path) -> Study:
    if options.concept not in TARGETS:
        raise ValueError(f"{options.concept!r} is no concept of this policy; choose one of {', '.join(TARGETS)}")
    if len(arena.episodes) < 2:
        raise ValueError(f"{len(arena.episodes)} episode says nothing about how they differ; give 2 or more")
    target = TARGETS[options.concept]
    instruction = options.instruction or ("move left" if target.metric == "up" else "move up")
    bench = Bench(policy, arena, file=out / "measured.json")
    contest_in = partial(
        contest,
        policy,
        options.concept,
        top=options.top,
        method=options.method,
        sets=options.sets,
        seed=options.seed,
    )
    between = contest_in()
    neurons = tuple(between.cluster.neurons)

    def told(text: str, chosen: Sequence[Neuron] = (), *, scope: str = "all") -> Measured:
        return bench.measure(
            Condition(
                instruction=text,
                neurons=tuple(chosen),
                value=options.value if chosen else 0.0,
                scope=scope,
                steps=options.steps,
            )
        )

    doses = []
    for value in sorted({*options.doses, options.value}):
        doses.append(dose(bench, between, instruction, value, steps=options.steps))
        _told(f"{instruction!r}, strength {value:g}", doses[-1])
    instructions = {}
    for other in dict.fromkeys([instruction, *INSTRUCTIONS]):
        instructions[other] = dose(bench, between, other, options.value, steps=options.steps)
        _told(repr(other), instructions[other])
    layers = {"all": instructions[instruction]}
    halves: tuple[Literal["early", "late"], ...] = ("early", "late")
    for half in halves:
        part = contest_in(layers=half)
        layers[half] = dose(bench, part, instruction, options.value, steps=options.steps)
        _told(f"{half} layers", layers[half])

    baseline = told(instruction)
    scopes = {
        text: {scope: difference(told(text, neurons, scope=scope), told(text), target.metric).value for scope in SCOPES}
        for text in dict.fromkeys([instruction, "move up", "move left"])
    }
    inputs = arena.starts()
    found = Study(
        options=options,
        date=date.today().isoformat(),
        policy=name,
        instruction=instruction,
        setting=bench.setting,
        between=between,
        natural=natural_activations(policy, instruction, inputs),
        baseline=_means(baseline),
        word=difference(told(words.with_word(instruction, options.concept)), baseline, target.metric),
        doses=tuple(doses),
        damage_from=next((each.value for each in doses if each.damaged), None),
        instructions=instructions,
        scopes=scopes,
        layers=layers,
        outcomes=_outcomes(bench, between, options),
        side_effects=side_effects.measure(policy, options.concept, neurons, options.value, inputs=inputs),
        random_side_effects=tuple(
            side_effects.measure(policy, options.concept, each, options.value, inputs=inputs)
            for each in counted(between.random, "side effects", unit="random sets")
        ),
    )
    write_json(out / "study.json", asdict(found))
    return found


def _means(measured: Measured) -> dict[str, float]:
    return {metric: float(np.mean(getattr(measured, metric))) for metric in ("speed", "right", "forward", "up")}


def _outcomes(bench: Bench, between: Contest, options: Options) -> dict[str, Outcome]:
    reach = words.instruction(words.REACH)
    said = words.with_word(reach, between.concept)

    def under(text: str, neurons: Sequence[Neuron] = (), *, swap_images: bool = False) -> Condition:
        return Condition(
            instruction=text,
            neurons=tuple(neurons),
            value=options.value if neurons else 0.0,
            steps=_REACHING * options.steps,
            swap_images=swap_images,
        )

    conditions = {
        "unsteered": under(reach),
        f"told {said!r}": under(said),
        f"neurons of {between.concept!r}": under(reach, between.cluster.neurons),
        f"neurons of {words.ANTONYMS[between.concept]!r}": under(reach, between.opposite.neurons),
        "first random set": under(reach, between.random[0]),
    }
    if bench.policy.policy_config.camera:
        conditions["unsteered, the image of another episode"] = under(reach, swap_images=True)
    outcomes = {}
    for label, condition in conditions.items():
        measured = bench.measure(condition)
        outcomes[label] = Outcome(
            success=share(measured), length=float(np.mean(measured.length)), clipped=float(np.mean(measured.clipped))
        )
    return outcomes


def _told(what: str, dose: Dose) -> None:
    logger.info("%s: %+.2f mm a step, %s", what, dose.effect.value, dose.verdict)
