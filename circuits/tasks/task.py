"""A task: pairs of prompts that differ where the answer is decided, the answers, and what is measured."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.tasks.metrics import METRICS, CustomMetric
from circuits.tasks.roles import role_numbers
from interp.files.outside import parse_json, reading

DIRECTIONS = ("denoise", "noise")
PADDING = -1


class Task:
    """``n`` pairs of prompts of one length, and the ids that answer them.

    Attributes:
        clean, corrupt: Token ids ``[n, position]``.
        correct, wrong: Answer ids ``[n, k]``, padded with -1.
        metric: A name in ``circuits.tasks.METRICS`` or a function of logits ``[n, vocab]`` and the task that returns
            ``[n]``. Whichever it is, results are scaled so that the clean run is 1 and the corrupt run 0.
        direction: ``denoise`` patches clean activations into the corrupt run (gradients are taken there), ``noise``
            the other way round. What a circuit with several paths looks like depends on it.
        labels: A word for each position, for drawings.
        roles: For prompts from several templates: what each position is, ``[n][position]``, such as "IO" or "S2". Every
            prompt has the same roles. Where they stand at different positions, scores, patches and means are by role:
            positions of one role belong together, and the position axis of results becomes one of roles.
        name: For titles and files.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> len(task), task.length
        (2, 17)
    """

    def __init__(
        self,
        *,
        clean: Any,
        corrupt: Any,
        correct: Any,
        wrong: Any,
        metric: str | CustomMetric = "logit_difference",
        direction: str = "denoise",
        labels: Sequence[str] | None = None,
        roles: Sequence[Sequence[str]] | None = None,
        name: str = "task",
    ) -> None:
        self.clean, self.corrupt = _prompts(clean, "clean"), _prompts(corrupt, "corrupt")
        if self.clean.shape != self.corrupt.shape:
            raise ValueError(
                f"clean prompts are {_size(self.clean)}, corrupt ones {_size(self.corrupt)}: each pair must have the"
                " same number of tokens, or positions could not be compared. Choose words of as many tokens"
            )
        if (same := (self.clean == self.corrupt).all(-1)).any():
            raise ValueError(f"clean and corrupt prompt {int(same.nonzero()[0])} are the same tokens")
        self.correct, self.wrong = _answers(correct, "correct", len(self)), _answers(wrong, "wrong", len(self))
        for row, (right, other) in enumerate(zip(self.correct.tolist(), self.wrong.tolist(), strict=True)):
            if both := set(right) & set(other) - {PADDING}:
                raise ValueError(f"token {min(both)} is both a correct and a wrong answer to prompt {row}")
        if isinstance(metric, str) and metric not in METRICS:
            raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}, nor a function")
        if direction not in DIRECTIONS:
            raise ValueError(f"direction {direction!r} is not one of {', '.join(DIRECTIONS)}")
        if labels is not None and len(labels) != self.length:
            raise ValueError(f"{len(labels)} labels for {self.length} positions; give one a position")
        self.roles = None if roles is None else _roles(roles, *self.clean.shape)
        self.metric: str | CustomMetric = metric
        self.direction = direction
        self.labels = None if labels is None else tuple(labels)
        self.name = name

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {_size(self.clean)}, {self.metric_name}, {self.direction})"

    @property
    def length(self) -> int:
        """Tokens a prompt."""
        return self.clean.shape[1]

    @property
    def role_numbers(self) -> Tensor | None:
        """Each position's role by number, ``[n, position]``; None where every position is the same in all prompts."""
        if self.roles is None or len(set(self.roles)) == 1:
            return None
        return role_numbers(self.roles)[1]

    @property
    def columns(self) -> tuple[str, ...] | None:
        """A word for each entry of the position axis of results: ``labels``, or roles where that axis has roles."""
        if self.roles is None or self.role_numbers is None:
            return self.labels
        return role_numbers(self.roles)[0]

    def require_aligned(self, what: str) -> None:
        """Refuse, for ``what`` looks at single positions, prompts in which a position has several roles."""
        if self.role_numbers is not None:
            raise ValueError(
                f"{what} are by position, but in the prompts of {self.name} one position has several roles: draw them"
                " from one template"
            )

    @property
    def metric_name(self) -> str:
        """The metric's name, or that of the function."""
        return self.metric if isinstance(self.metric, str) else getattr(self.metric, "__name__", "custom metric")

    @property
    def base(self) -> Tensor:
        """The prompts that run, ``[n, position]``: the corrupt ones in direction ``denoise``."""
        return self.corrupt if self.direction == "denoise" else self.clean

    @property
    def source(self) -> Tensor:
        """The prompts whose activations are patched in."""
        return self.clean if self.direction == "denoise" else self.corrupt

    def replace(self, **changes: Any) -> "Task":
        """The same task with some arguments changed, such as ``direction="noise"``."""
        own = ("clean", "corrupt", "correct", "wrong", "metric", "direction", "labels", "roles", "name")
        return Task(**{name: getattr(self, name) for name in own} | changes)

    def rows(self, chosen: slice | Sequence[int]) -> "Task":
        """The task of some of the prompts."""
        index = chosen if isinstance(chosen, slice) else list(chosen)
        chosen_rows = {name: getattr(self, name)[index] for name in ("clean", "corrupt", "correct", "wrong")}
        if self.roles is not None:
            chosen_rows["roles"] = [self.roles[i] for i in torch.arange(len(self))[index].tolist()]
        return self.replace(**chosen_rows)

    @classmethod
    def from_text(
        cls,
        tokenizer: Any,
        *,
        clean: Sequence[str],
        corrupt: Sequence[str],
        correct: Sequence[str | Sequence[str]],
        wrong: Sequence[str | Sequence[str]],
        bos: bool | None = None,
        **options: Any,
    ) -> "Task":
        """A task from prompts and answers in text; an answer begins with its space, as in ``" Mary"``.

        Args:
            bos: Put the tokenizer's BOS token in front; by default where the tokenizer does so itself.
            options: As for the constructor.

        Raises:
            ValueError: prompts of different length, or an answer of several tokens; each names the text.
        """
        rows = {
            name: [encode(tokenizer, text, bos=bos) for text in texts]
            for name, texts in (("clean", clean), ("corrupt", corrupt))
        }
        lengths = {len(ids) for ids in (*rows["clean"], *rows["corrupt"])}
        if len(lengths) > 1:
            odd = next(
                (name, i)
                for name, texts in rows.items()
                for i, ids in enumerate(texts)
                if len(ids) != len(rows["clean"][0])
            )
            text = (clean if odd[0] == "clean" else corrupt)[odd[1]]
            raise ValueError(
                f"the prompts have {min(lengths)} to {max(lengths)} tokens; all of a task must have the same number."
                f" {odd[0]} prompt {odd[1]} is the first that differs: {text!r}"
            )
        answers = {
            name: [
                [single_token(tokenizer, word) for word in ([words] if isinstance(words, str) else words)]
                for words in texts
            ]
            for name, texts in (("correct", correct), ("wrong", wrong))
        }
        if rows["clean"] and not {"labels", "roles"} & set(options):
            options["labels"] = position_labels(tokenizer, rows["clean"])
        return cls(**options | rows | answers)

    @classmethod
    def from_jsonl(cls, path: str | Path, tokenizer: Any, **options: Any) -> "Task":
        """Read lines such as ``{"clean": "...", "corrupt": "...", "correct": " Mary", "wrong": [" John"]}``.

        Raises:
            ValueError: a line that is not of this form, by its number; and as :meth:`from_text`.
        """
        columns: dict[str, list[Any]] = {"clean": [], "corrupt": [], "correct": [], "wrong": []}
        with Path(path).open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    for name, value in _pair(line, f"{path}, line {number}").items():
                        columns[name].append(value)
        if not columns["clean"]:
            raise ValueError(f"{path} holds no prompts; a line is {_FORM}")
        with reading(path, "makes no task"):
            return cls.from_text(tokenizer, **{"name": Path(path).stem} | options | columns)


_FORM = '{"clean": "text", "corrupt": "text", "correct": " word" or [" words"], "wrong": the same}'
_A_LINE = f"A line is {_FORM}"


def _pair(line: bytes, where: str) -> dict[str, Any]:
    entry = parse_json(line, where, fix=_A_LINE)
    with reading(where, "is not a pair of prompts", fix=_A_LINE):
        pair = {name: entry[name] for name in ("clean", "corrupt", "correct", "wrong")}
    for name, value in pair.items():
        words = value if isinstance(value, list) and name in ("correct", "wrong") else [value]
        if not words or not all(isinstance(word, str) and word for word in words):
            raise ValueError(f"{where}: {name} is {value!r}; a line is {_FORM}")
    return pair


def encode(tokenizer: Any, text: str, *, bos: bool | None = None) -> list[int]:
    """Token ids of a prompt; ``bos`` as in :meth:`Task.from_text`.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> ids = circuits.tasks.encode(model.tokenizer, "Emma was")
        >>> model.tokenizer.decode(ids[-2:])
        'ma was'
    """
    ids = list(tokenizer(text, add_special_tokens=bos is None)["input_ids"])
    return [tokenizer.bos_token_id, *ids] if bos else ids


def single_token(tokenizer: Any, word: str) -> int:
    """The one id of an answer.

    Raises:
        ValueError: it takes several tokens, so that the logits of one position do not tell its probability.

    Example:
        >>> import interp
        >>> from circuits.tasks import single_token
        >>> tokenizer = interp.load_model("embedded").tokenizer
        >>> tokenizer.decode([single_token(tokenizer, " of")])
        ' of'
    """
    ids = list(tokenizer(word, add_special_tokens=False)["input_ids"])
    if len(ids) != 1:
        pieces = [tokenizer.decode([i]) for i in ids]
        hint = "" if word.startswith(" ") else "; most answers begin with a space, as in ' Mary'"
        raise ValueError(f"answer {word!r} is {len(ids)} tokens, {pieces}; choose an answer of one token{hint}")
    return ids[0]


def position_labels(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """A word for each position: the token where all prompts share it, the first prompt's in brackets elsewhere."""
    first = [tokenizer.decode([i]) for i in rows[0]]
    shared = [len(set(column)) == 1 for column in zip(*rows, strict=True)]
    return [word if same else f"[{word.strip()}]" for word, same in zip(first, shared, strict=True)]


def _prompts(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor) and isinstance(value, Iterable):
        value = [list(row) for row in value]
        lengths = sorted({len(row) for row in value})
        if len(lengths) > 1:
            raise ValueError(
                f"{name} prompts have {lengths[0]} to {lengths[-1]} tokens; all of a task must have the same number"
            )
    ids = torch.as_tensor(value)
    if ids.ndim != 2 or not ids.numel() or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"{name} must be token ids [prompt, position], not {ids.dtype} {list(ids.shape)}")
    return ids.long().cpu()


def _answers(value: Any, name: str, n: int) -> Tensor:
    if not isinstance(value, Tensor):
        rows = [list(row) if isinstance(row, Iterable) else [row] for row in value]
        width = max((len(row) for row in rows), default=1) or 1
        value = [[*row, *[PADDING] * (width - len(row))] for row in rows]
    ids = torch.as_tensor(value)
    ids = ids[:, None] if ids.ndim == 1 else ids
    if ids.is_floating_point() or ids.ndim != 2 or len(ids) != n:
        raise ValueError(
            f"{name} must be ids [n] or [n, k] for {n} prompts, not {ids.dtype} {list(ids.shape)}; an answer of"
            " several tokens cannot be read off one position"
        )
    if not (ids >= 0).any(-1).all():
        raise ValueError(f"{name} has no answer for prompt {int((ids < 0).all(-1).nonzero()[0])}")
    return ids.long().cpu()


def _roles(value: Sequence[Sequence[str]], n: int, length: int) -> tuple[tuple[str, ...], ...]:
    named = tuple(tuple(row) for row in value)
    if len(named) != n or any(len(row) != length for row in named):
        raise ValueError(
            f"roles must name {length} positions of {n} prompts, not {sorted({len(row) for row in named})} of"
            f" {len(named)}"
        )
    for number, row in enumerate(named):
        if differ := set(row) ^ set(named[0]):
            raise ValueError(
                f"prompts 0 and {number} do not both have a role {min(differ)!r}; all prompts have the same"
            )
    return named


def _size(prompts: Tensor) -> str:
    return f"{prompts.shape[0]} prompts of {prompts.shape[1]} tokens"
