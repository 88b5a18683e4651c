"""What came of a run: explanations, their scores, what was spent and what is left; as a file, and for pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.files.outside import read_json, reading
from interp.files.seals import is_broken, write_sealed_json
from interp.metrics import Estimate
from interp.terminal.answers import plain
from saes.explanations.scores import Compared, Summary

FINDINGS = "explanations.json"
FORMAT = "deepfield-explanations-1"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a judge says of one latent."""

    latent: int
    """Number of the latent in its SAE."""
    text: str | None
    """The sentence, or None where none could be read from the answer."""
    judge: str
    """Name of who said it."""
    prompts: str
    """Version of the templates that asked for it."""
    seed: int
    """Seed that passages were drawn with."""
    examples: int
    """Passages that the judge was shown."""
    density: float
    """Share of tokens on which the latent is active."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An explanation with its scores."""

    explanation: Explanation
    """The explanation that is scored."""
    companion: Explanation
    """That of another latent, about as dense, which stands for chance."""
    scores: dict[str, Compared]
    """By name; a score that could not be had, or is not complete, is missing."""
    kl: Estimate | None
    """KL (clamped ‖ clean) in nats a position, the error over sets of passages; None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is not answered yet."""

    requests: int
    """Requests that would still be made."""
    tokens: int
    """About how many tokens they and their answers would take."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of a run, or of what there is of it."""

    format: str
    """Name and version of this form."""
    about: dict[str, Any]
    """Judge, SAE, model, text, templates and settings."""
    latents: tuple[Scored, ...]
    """Latents that are explained, in order of number."""
    summary: dict[str, Summary]
    """Over latents, for each score."""
    left_out: dict[str, str]
    """Latents that were asked for and cannot be explained, by number, with the reason."""
    no_pairs: dict[str, str]
    """Latents without a score of effects, by number, with the reason."""
    explained: int
    """Latents that a judge was asked to explain, companions too."""
    malformed_explanations: int
    """Those of them without a sentence that could be read."""
    requests: int
    """Requests that were answered, in all runs into the folder."""
    tokens: int
    """Tokens of these requests and answers."""
    uncounted: int
    """Answers whose judge does not say its tokens, so that they are estimated in ``tokens``."""
    left: Left
    """What is not answered yet."""
    stopped: str | None
    """Why it ended before that, None where all was answered."""

    def write(self, folder: Path) -> Path:
        """Into ``explanations.json``, atomically."""
        write_sealed_json(folder / FINDINGS, plain(self))
        return folder / FINDINGS


def read_notes(folder: Path) -> dict[int, dict[str, Any]]:
    """For pages: of each explained latent its ``text``, who said it (``by``), and each score in words (``scores``).

    Raises:
        ValueError: the folder holds no explanations, or its file is damaged.

    Example:
        >>> from pathlib import Path
        >>> from saes.explanations import read_notes
        >>> read_notes(Path("nowhere"))
        Traceback (most recent call last):
        ValueError: there are no explanations in nowhere; name the --out of interp sae explain
    """
    path = folder / FINDINGS
    if not path.is_file():
        raise ValueError(f"there are no explanations in {folder}; name the --out of interp sae explain")
    content = _read(path)
    with reading(path, "is damaged"):
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, this version reads {FORMAT!r}")
        return {_number(one["explanation"]["latent"]): _note(one) for one in content["latents"]}


def sae_of(folder: Path) -> Any:
    """Identity of the SAE or part that the folder's explanations are of, as it was written."""
    content = _read(folder / FINDINGS)
    with reading(folder / FINDINGS, "is damaged"):
        return content["about"]["sae"]


def part_of(folder: Path) -> int | None:
    """The part of a dictionary over several places that the folder's explanations are of; None for an SAE."""
    its = sae_of(folder)
    with reading(folder / FINDINGS, "is damaged"):
        part = its.get("part")
        return None if part is None else _number(part)


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if is_broken(content):
        raise ValueError(f"{path} is damaged: its checksum differs")
    return content


def _note(one: Mapping[str, Any]) -> dict[str, Any]:
    said = one["explanation"]
    text = said["text"]
    if text is not None and not isinstance(text, str):
        raise ValueError(f"an explanation is a {type(text).__name__}, not a text")
    scores = []
    for name, each in one["scores"].items():
        own, null = (each[which]["accuracy"] for which in ("own", "null"))
        if own is not None and null is not None:
            error = _finite(own["standard_error"])
            line = f"{name} {_finite(own['value']):.2f} ± {error:.2f}"
            scores.append(f"{line} ({_finite(null['value']):.2f} by another's explanation): {each['verdict']}")
        else:
            scores.append(f"{name}: {each['verdict']}")
    return {"text": text, "by": f"{said['judge']}, templates {said['prompts']}", "scores": scores}


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a latent or part is {value!r}; it must be a whole number")
    return value


def _finite(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} stands where a number belongs")
    return float(value)
