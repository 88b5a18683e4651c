"""Steering in closed loop, on the policies that ship: acceptance of docs/vla.md, with its own controls."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("interp.vla.simulator", reason="needs pip install 'deepfield[vla]'", exc_type=ImportError)

from interp.vla.policy import words
from interp.vla.policy.policy import load_policy
from interp.vla.simulator import Camera, Reach
from interp.vla.study.bench import Bench, Condition
from interp.vla.study.contests import Contest, contest, dose, verdict
from interp.vla.study.rollouts import Arena, Rollout, arena_for


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with arena_for(load_policy("state"), range(3)) as arena:
        yield arena


@pytest.fixture(scope="module")
def bench(arena: Arena) -> Bench:
    return Bench(load_policy("state"), arena)


@pytest.fixture(scope="module")
def fast(bench: Bench) -> Contest:
    return contest(bench.policy, "fast")


def speed(bench: Bench, instruction: str) -> float:
    return float(np.mean(bench.measure(Condition(instruction=instruction)).speed))


def same(one: Rollout, other: Rollout) -> bool:
    return np.array_equal(one.hand, other.hand) and np.array_equal(one.actions, other.actions)


def test_an_episode_is_the_same_every_time_and_its_goal_stays() -> None:
    one, other = Reach(seed=5), Reach(seed=5)
    first = one.reset(3)
    for action in ([1.0, 0, 0.5], [0, -1.0, 0]):
        moved = one.step(np.array(action))
    other.reset(4)
    for environment in (one, other):
        again = environment.reset(3)
        assert np.array_equal(again.hand, first.hand)
        assert np.array_equal(again.goal, first.goal)
    assert np.array_equal(moved.goal, first.goal)
    assert not np.array_equal(one.reset(4).goal, first.goal)
    with pytest.raises(ValueError, match="episodes are counted from 0"):
        one.reset(-1)


def test_the_camera_sees_the_goal_and_not_only_the_hand() -> None:
    environment = Reach(seed=5)
    with Camera(environment, size=64) as camera:
        pictures = []
        for episode in (0, 1):
            environment.reset(episode)
            pictures.append(camera.photograph(environment))
            assert np.array_equal(camera.photograph(environment), pictures[-1])
    red = [(picture[..., 0] > 200) & (picture[..., 1:].max(-1) < 60) for picture in pictures]
    assert all(4 < mask[36:].sum() < 200 for mask in red), "a ball on the table"
    assert (red[0] != red[1]).any()


def test_unsteered_rollouts_repeat_bit_for_bit_cached_or_not(bench: Bench) -> None:
    first, again = (bench.arena.roll(bench.policy, "move left", steps=6) for _ in range(2))
    assert same(first, again)
    assert same(first, bench.arena.roll(bench.policy, "move left", steps=6, cached=False))


def test_the_policy_does_what_it_is_told(bench: Bench) -> None:
    assert speed(bench, "move up") == pytest.approx(4.5, abs=0.4)
    assert speed(bench, "move up quickly") > speed(bench, "move up") + 3
    assert speed(bench, "move up slowly") < speed(bench, "move up") - 2
    for task, metric, sign in (("up", "up", 1), ("down", "up", -1), ("left", "right", -1), ("back", "forward", -1)):
        moved = getattr(bench.measure(Condition(instruction=words.instruction(task))), metric)
        assert np.min(np.array(moved) * sign) > 3
    reached = bench.measure(Condition(instruction="reach the goal quickly", steps=60))
    assert sum(reached.success) >= 2
    assert min(reached.length) < 60


def test_the_policy_with_a_camera_reads_the_goal_off_the_image() -> None:
    """Only the image says where the goal is; shown another episode's, the hand does not find it."""
    policy = load_policy("camera")
    with arena_for(policy, range(2, 8)) as arena:
        own, other = (
            arena.roll(policy, "reach the goal quickly", steps=45, swap_images=swap).success.sum()
            for swap in (False, True)
        )
    assert own >= other + 3


def test_fast_neurons_make_it_fast_and_random_ones_do_not(bench: Bench, fast: Contest) -> None:
    """A9: by at least 2 mm a step at strength 6, and more than 95 % of 40 matched random sets."""
    found = dose(bench, fast, "move up", 6.0)
    assert len(found.random) == 40
    assert found.effect.value >= 2.0
    assert np.mean(np.array(found.random) < found.effect.value) >= 0.95
    assert found.p == (1 + np.sum(np.array(found.random) >= found.effect.value)) / 41
    assert found.verdict.startswith("steers")
    assert found.damaged == (max(-found.band[0], found.band[1]) > 0.5)


def test_there_is_a_window_in_which_neurons_do_what_the_word_does(bench: Bench, fast: Contest) -> None:
    """A12: at strength 2 the neurons change the speed alone, as the word does, and random sets do nothing."""
    few = replace(fast, random=fast.random[:6])
    gentle, rough = (dose(bench, few, "move up", value) for value in (2.0, 10.0))
    assert gentle.effect.value == pytest.approx(speed(bench, "move up quickly") - speed(bench, "move up"), abs=0.3)
    assert gentle.heading > 0.95
    assert not gentle.damaged
    assert rough.damaged
    assert rough.heading < 0.8


def test_readable_is_not_controllable(bench: Bench) -> None:
    """A10: neurons that say "up" do not lift a hand that moves left, and the tool does not say that they do."""
    up = contest(bench.policy, "up", sets=8)
    tokens = {token.text for member in up.cluster.members[:5] for token in member.tokens[:3]}
    assert len(tokens & set(words.CONCEPTS["up"])) >= 3
    assert dose(bench, up, "move left", 6.0).verdict.startswith("does not steer")


def test_without_sentences_in_training_the_same_words_steer_nothing(arena: Arena) -> None:
    """A10: the negative control follows instructions as well, and its neurons for "fast" do nothing."""
    bench = Bench(load_policy("no_text"), arena)
    assert speed(bench, "move up quickly") > speed(bench, "move up") + 3
    found = dose(bench, contest(bench.policy, "fast", sets=4), "move up", 6.0)
    assert abs(found.effect.value) < 0.2
    assert found.verdict.startswith("does not steer")


def test_the_prompt_moves_x_and_decoding_moves_y_and_z(bench: Bench) -> None:
    """A11: the first action token is predicted from the prompt, the others from action tokens."""
    slow = tuple(contest(bench.policy, "slow", sets=1).cluster.neurons)
    effects = {}
    for instruction in ("move up", "move left"):
        for scope in ("all", "prefill", "decode"):
            condition = Condition(instruction=instruction, neurons=slow, value=4.0, scope=scope)
            steered = float(np.mean(bench.measure(condition).speed))
            effects[instruction, scope] = steered - speed(bench, instruction)
    assert max(effects["move up", "all"], effects["move left", "all"]) < -2
    assert abs(effects["move up", "prefill"]) < 0.1
    assert effects["move up", "decode"] == pytest.approx(effects["move up", "all"], abs=0.5)
    assert abs(effects["move left", "decode"]) < 0.1
    assert effects["move left", "prefill"] == pytest.approx(effects["move left", "all"], abs=0.1)


def test_what_cannot_be_measured_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="'angry' is no concept of this policy; choose one of fast, slow"):
        contest(bench.policy, "angry")
    with pytest.raises(ValueError, match="no word for 'dance'"):
        bench.measure(Condition(instruction="dance"))
    with pytest.raises(ValueError, match="an episode of 0 steps"):
        bench.measure(Condition(instruction="move up", steps=0))


def test_a_verdict_needs_an_effect_more_than_chance_and_the_right_sign() -> None:
    sound: dict[str, Any] = {"p": 0.02, "sets": 40, "damaged": False, "astray": False}
    assert verdict(0.6, **sound) == "steers"
    assert verdict(0.4, **sound) == "does not steer: less than 0.5 mm a step"
    assert verdict(-0.6, **sound) == "does not steer: the effect has the wrong sign"
    assert verdict(3.0, **sound | {"p": 0.06}) == "does not steer: random sets do as much"
    few = "cannot tell: 18 random sets, and it takes 19 for p to reach 0.05"
    assert verdict(3.0, **sound | {"p": 1 / 19, "sets": 18}) == few
    assert verdict(3.0, **sound | {"p": 1 / 20, "sets": 19}) == "steers"
    assert verdict(3.0, **sound | {"damaged": True}) == "steers, but random sets do damage"
    assert verdict(3.0, **sound | {"astray": True, "damaged": True}) == (
        "steers, but the hand turns and random sets do damage"
    )
