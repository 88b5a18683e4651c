"""``interp vla``: a small vision-language-action policy, and whether its neurons steer it in closed loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import App, Parameter

from interp.commands.options import OutFile, OutFolder
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

app = App(
    name="vla",
    help="Steer a vision-language-action policy by its neurons, in a simulator.",
    help_epilogue=examples(
        "interp vla train --out runs/policy",
        "interp vla evaluate --concept fast --out runs/fast --figure dose.svg",
        "interp vla render --concept fast --save fast.gif",
    ),
)


@contextmanager
def _one_thread() -> Iterator[None]:
    """More are no faster at this size; who calls a command from Python finds the number unchanged."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, kw_only=True)
class Steering:
    """Which neurons, and how hard."""

    concept: str = "fast"
    """fast, slow, up, down, left, right, forward or back."""
    value: float = 2.0
    """What the activations are set to; it means something only beside their natural size, which the report names."""
    top: int = 20
    """How many neurons to steer."""
    method: Literal["logit", "neighbours"] = "logit"
    """How they are found: mean logit over the concept's words, or the paper's nearest neighbours."""


@app.command
@_one_thread()
def train(
    *,
    out: OutFolder,
    camera: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    episodes: int | None = None,
    language_steps: int = 300,
    text_weight: float = 0.5,
) -> None:
    """Train a policy on scripted experts: minutes without a camera, under an hour with one. Continues where it stopped.

    Parameters
    ----------
    out
        Folder for demonstrations, training state and policy.
    camera
        Width of a camera image in pixels (64 is enough); then only the image says where the goal is.
    seed
        Of demonstrations, first weights and batches.
    steps
        Of the optimiser; by default 1000, with a camera 1200.
    episodes
        Of demonstrations; by default 480, with a camera 800.
    language_steps
        Steps before the first action: questions and sentences alone, as a language model comes before a policy.
    text_weight
        Of the loss on sentences of text alone. With 0, and --language-steps 0, the policy is the negative control.
    """
    _require_simulator()
    from interp.vla.policy.training import Recipe
    from interp.vla.policy.training import train as train_policy

    recipe = Recipe(
        seed=seed,
        camera=camera,
        steps=steps if steps is not None else 1200 if camera else 1000,
        episodes=episodes if episodes is not None else 800 if camera else 480,
        language_steps=language_steps,
        text_weight=text_weight,
    )
    with_camera = f", through a camera of {camera} pixels" if camera else ""
    say_plan(f"{recipe.episodes} demonstrations{with_camera}, then {recipe.steps} steps of the optimiser, into {out}")
    policy = train_policy(recipe, out)
    size = sum(parameter.numel() for parameter in policy.parameters())
    answer({"policy": out, "parameters": size, "steps": recipe.steps, "episodes": recipe.episodes})
    print(f"{size:,} parameters, trained for {recipe.steps} steps on {recipe.episodes} demonstrations.")
    print(f"The policy is {out / 'policy.safetensors'}; interp vla evaluate {out} --out DIR measures it.")


@app.command
@_one_thread()
def evaluate(
    policy: str = "state",
    /,
    *,
    out: OutFolder,
    steering: Annotated[Steering, Parameter(name="*")] = Steering(),
    instruction: str | None = None,
    doses: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 20.0),
    sets: int = 40,
    episodes: int = 8,
    steps: int = 30,
    seed: int = 0,
    figure: OutFile | None = None,
) -> None:
    """Does a cluster steer? Against nothing, random sets and the word in the prompt. Continues where it stopped.

    Writes study.json and report.html.

    Parameters
    ----------
    policy
        state, camera and no_text (the negative control) ship; or a folder of interp vla train.
    out
        Folder for measurements and report.
    instruction
        Of the dose curve; by default "move up", and "move left" where height is what should change.
    doses
        Strengths of the curve.
    sets
        Matched random sets.
    episodes
        Paired episodes of every condition.
    steps
        Horizon of an episode; three times as many where success is counted.
    seed
        Of the random sets.
    figure
        Write the dose curve there, as SVG.
    """
    _require_simulator()
    from interp.vla.policy.policy import load_policy
    from interp.vla.study.dose_svg import dose_svg
    from interp.vla.study.film import SIZE, film, gif
    from interp.vla.study.page import study_page
    from interp.vla.study.rollouts import arena_for
    from interp.vla.study.study import Options, study

    options = Options(
        **vars(steering), instruction=instruction, doses=doses, sets=sets, episodes=episodes, steps=steps, seed=seed
    )
    say_plan(
        f"{episodes} episodes of {steps} steps for each of {sets} random sets, of {len({*doses, steering.value})}"
        " strengths, 3 instructions and both halves of the layers; then scopes, the goal, and side effects"
    )
    loaded = load_policy(policy)
    with arena_for(loaded, range(episodes)) as arena:
        found = study(loaded, arena, options, name=policy, out=out)
    with arena_for(loaded, [0], film=SIZE) as arena:
        page = study_page(
            found, gif(film(loaded, arena, found.between, found.instruction, value=steering.value, steps=steps))
        )
    dose, (low, high) = found.headline, found.headline.band
    answer(
        {
            "headline": dose,
            "word": found.word,
            "study": out / "study.json",
            "report": out / "report.html",
            "figure": figure,
        }
    )
    print(
        f"{found.instruction!r}, strength {dose.value:g} of {steering.concept!r}: {dose.effect.value:+.2f} mm a step,"
        f" random sets {low:+.2f} to {high:+.2f} (p = {dose.p:.3g}), the word {found.word.value:+.2f}: {dose.verdict}."
    )
    if figure is not None:
        dose_svg(found, figure)
    print(f"The report is {page.write(out / 'report.html')}: open it in a browser.")


@app.command
@_one_thread()
def render(
    policy: str = "state",
    /,
    *,
    save: OutFile,
    steering: Annotated[Steering, Parameter(name="*")] = Steering(),
    instruction: str = "move up",
    episode: int = 0,
    steps: int = 30,
) -> None:
    """Film an episode unsteered, with the word in the instruction, and steered, side by side.

    Parameters
    ----------
    policy
        As for interp vla evaluate.
    save
        File ending in .gif or .mp4.
    instruction
        What the robot is told.
    episode
        Which goal and start.
    steps
        Length of the film.
    """
    _require_simulator()
    from interp.vla.policy.policy import load_policy
    from interp.vla.study.contests import contest
    from interp.vla.study.film import SIZE, check_film_path, film, write_film
    from interp.vla.study.rollouts import arena_for

    check_film_path(save)
    say_plan(f"an episode of {steps} steps, four times: unsteered, told the word, steered, and with a random set")
    loaded = load_policy(policy)
    between = contest(loaded, steering.concept, top=steering.top, method=steering.method, sets=1)
    with arena_for(loaded, [episode], film=SIZE) as arena:
        write_film(film(loaded, arena, between, instruction, value=steering.value, steps=steps), save)
    answer({"film": save})
    print(f"The film is {save}.")


def _require_simulator() -> None:
    """Say how to install the extra before anything else is looked at."""
    import interp.vla.simulator  # noqa: F401
