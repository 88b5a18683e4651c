"""Rollouts as one film: episodes side by side under their labels, as GIF or MP4."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from interp.files.writing import atomic_path
from interp.models.feed_forward import Neuron
from interp.vla.policy import words
from interp.vla.policy.policy import VLAPolicy
from interp.vla.study.bench import Bench, Condition
from interp.vla.study.contests import Contest
from interp.vla.study.rollouts import Arena

SIZE = 224
"""Width of one episode, pixels."""
FORMATS = (".gif", ".mp4")
_BAR, _FRAMES_A_SECOND, _COLOURS, _LAST_FRAME_SECONDS = 26, 12, 96, 1.5


def film(
    policy: VLAPolicy, arena: Arena, between: Contest, instruction: str, *, value: float, steps: int
) -> UInt8[np.ndarray, "frame high wide 3"]:
    """The first episode of ``arena`` (which films) unsteered, told the word, steered, and with a random set."""
    bench = Bench(policy, arena)
    said = words.with_word(instruction, between.concept)
    conditions: dict[str, tuple[str, Sequence[Neuron]]] = {
        f"{instruction!r}": (instruction, ()),
        f"{said!r}": (said, ()),
        f"{between.concept!r} neurons = {value:g}": (instruction, between.cluster.neurons),
        f"random neurons = {value:g}": (instruction, between.random[0]),
    }
    films = {}
    for label, (text, neurons) in conditions.items():
        rolled = bench.roll(Condition(instruction=text, neurons=tuple(neurons), value=value, steps=steps))
        assert rolled.film is not None  # the arena films
        films[label] = rolled.film
    return side_by_side(films)


def side_by_side(films: Mapping[str, UInt8[np.ndarray, "frame size size 3"]]) -> UInt8[np.ndarray, "frame high wide 3"]:
    """Label -> film, all as long, to one film with the labels above."""
    columns = [
        np.concatenate([np.repeat(_bar(label, film)[None], len(film), 0), film], 1) for label, film in films.items()
    ]
    return np.concatenate(columns, axis=2)


def gif(film: UInt8[np.ndarray, "frame high wide 3"]) -> bytes:
    """A GIF that repeats, resting on its last frame."""
    frames = [Image.fromarray(frame).quantize(_COLOURS, dither=Image.Dither.NONE) for frame in film]
    buffer, duration = BytesIO(), 1000 // _FRAMES_A_SECOND
    durations = [duration] * (len(frames) - 1) + [int(1000 * _LAST_FRAME_SECONDS)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()


def write_film(film: UInt8[np.ndarray, "frame high wide 3"], path: Path) -> None:
    """Write a GIF or an MP4, by the suffix, atomically.

    Raises:
        ValueError: another suffix.
    """
    check_film_path(path)
    with atomic_path(path) as partial:
        if path.suffix == ".gif":
            partial.write_bytes(gif(film))
        else:
            even = film[:, : film.shape[1] // 2 * 2, : film.shape[2] // 2 * 2]  # H.264 halves both
            video = imageio.imwrite(
                "<bytes>", even, extension=".mp4", plugin="pyav", codec="libx264", fps=_FRAMES_A_SECOND
            )
            partial.write_bytes(video)


def check_film_path(path: Path) -> None:
    """Refuse a film in a format that is not written."""
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} should end in {' or '.join(FORMATS)}")


def _bar(label: str, film: UInt8[np.ndarray, "frame size size 3"]) -> UInt8[np.ndarray, "bar size 3"]:
    picture = Image.new("RGB", (film.shape[2], _BAR), "white")
    ImageDraw.Draw(picture).text((6, 5), label, fill="black", font=ImageFont.load_default(13))
    return np.asarray(picture)
