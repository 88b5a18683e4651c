"""Entities whose attributes a language model is asked for: questions of one template an attribute."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.files.outside import reading
from interp.models.bridge import Model
from interp.sites.site import Site
from interp.sites.splicing import spliced_logits, vectors_at
from interp.terminal.short_repr import short_repr

_BATCH = 32
_CITIES = """
Paris France Europe French; Lyon France Europe French; Marseille France Europe French; Bordeaux France Europe French;
Berlin Germany Europe German; Munich Germany Europe German; Hamburg Germany Europe German;
Frankfurt Germany Europe German; Cologne Germany Europe German; Rome Italy Europe Italian; Milan Italy Europe Italian;
Venice Italy Europe Italian; Turin Italy Europe Italian; Bologna Italy Europe Italian; Madrid Spain Europe Spanish;
Barcelona Spain Europe Spanish; Seville Spain Europe Spanish; Valencia Spain Europe Spanish; Tokyo Japan Asia Japanese;
Osaka Japan Asia Japanese; Kyoto Japan Asia Japanese; Nagoya Japan Asia Japanese; Hiroshima Japan Asia Japanese;
Sapporo Japan Asia Japanese; Beijing China Asia Chinese; Shanghai China Asia Chinese; Shenzhen China Asia Chinese;
Nanjing China Asia Chinese; Wuhan China Asia Chinese; Moscow Russia Europe Russian; Athens Greece Europe Greek;
Seoul Korea Asia Korean; Busan Korea Asia Korean; Vienna Austria Europe German; Hanoi Vietnam Asia Vietnamese
"""


@dataclass(frozen=True, kw_only=True)
class Entities:
    """What is asked, and what is right."""

    name: str
    """What the set is called in tables."""
    questions: Mapping[str, str]
    """Attribute -> a text with {entity}, which the answer continues."""
    answers: Mapping[str, Mapping[str, str]]
    """Entity -> attribute -> the right answer."""

    def __post_init__(self) -> None:
        for attribute, question in self.questions.items():
            if question.count("{entity}") != 1:
                raise ValueError(
                    f"{self.name}: the question for {attribute!r} is {question!r}; put {{entity}} into it once"
                )
        for entity, its in self.answers.items():
            if missing := sorted(set(self.questions) - set(its)):
                raise ValueError(f"{self.name}: {entity!r} has no answer for {', '.join(missing)}")
        if len(self.questions) < 2 or len(self.answers) < 2:
            raise ValueError(f"{self.name}: two attributes and two entities are the least that there must be")


def cities() -> Entities:
    """Cities with country, continent and language: three of RAVEL's attributes, of our own choice of cities.

    Example:
        >>> from saes.suites import cities
        >>> cities().answers["Paris"]["language"]
        'French'
    """
    rows = [row.split() for row in _CITIES.replace("\n", " ").split(";")]
    return Entities(
        name="cities",
        questions={
            "country": "{entity} is a city in the country of",
            "continent": "{entity} is a city on the continent of",
            "language": "In {entity}, most people speak",
        },
        answers={city: {"country": a, "continent": b, "language": c} for city, a, b, c in rows},
    )


def read_entities(path: str | Path) -> Entities:
    """A JSON file: ``questions`` (attribute -> text with {entity}) and ``entities`` (entity -> attribute -> answer).

    Raises ValueError saying what is wrong in it.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from saes.suites import read_entities
        >>> questions, entities = {"a": "{entity} is", "b": "A {entity}"}, {e: {"a": "x", "b": e} for e in "uv"}
        >>> size = Path("mine.json").write_text(json.dumps({"questions": questions, "entities": entities}))
        >>> read_entities("mine.json").answers["u"]
        {'a': 'x', 'b': 'u'}
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; entities are JSON, an object with questions and entities")
    with reading(path.name, "is not JSON of questions and entities"):
        found = json.loads(path.read_text(encoding="utf-8"))
        questions, entities = found["questions"], found["entities"]
        texts = [*questions.items(), *((name, answer) for its in entities.values() for name, answer in its.items())]
        if not all(isinstance(part, str) for pair in texts for part in pair):
            raise ValueError(f"{path.name}: questions and answers are strings")
        return Entities(name=path.stem, questions=questions, answers=entities)


@dataclass(frozen=True, kw_only=True)
class AskedModel:
    """A language model as the world of :func:`saes.suites.ravel`: it answers with the most probable of an attribute's
    answers, by their first tokens.

    Raises ValueError where two answers to one question begin with the same token, or an entity shares a token with what
    follows it.

    Example:
        >>> import interp
        >>> from saes.suites import AskedModel, cities
        >>> model, site = interp.load_model("embedded"), interp.Site.parse("blocks.2.hook_resid_post")
        >>> AskedModel(model=model, site=site, entities=cities(), bos=True).attributes
        ('country', 'continent', 'language')
    """

    model: Model
    """What ``load_model`` returned for it."""
    site: Site
    """Where the SAE reads."""
    entities: Entities
    """The entities that are asked about."""
    bos: bool
    """Whether a beginning-of-sequence token stands before each question."""
    name: str = field(init=False)
    """Name of the set of entities."""
    attributes: tuple[str, ...] = field(init=False)
    """In the order of the questions."""
    truth: Int[np.ndarray, "attributes entities"] = field(init=False)
    """Number of the right answer among the attribute's, sorted."""
    _first: list[list[int]] = field(init=False)
    _rows: list[tuple[Tensor, Tensor, Tensor]] = field(init=False)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        questions, answers = self.entities.questions, self.entities.answers
        kinds = {name: sorted({its[name] for its in answers.values()}) for name in questions}
        truth = np.array([[kinds[name].index(its[name]) for its in answers.values()] for name in questions])
        first = [[self._ids(f" {answer}")[0] for answer in kinds[name]] for name in questions]
        for name, ids in zip(questions, first, strict=True):
            if len(set(ids)) < len(ids):
                raise ValueError(
                    f"{self.entities.name}: two answers for {name!r} begin with the same token; change one"
                )
        for key, value in {
            "name": self.entities.name,
            "attributes": tuple(questions),
            "truth": truth,
            "_first": first,
            "_rows": [self._questions(question) for question in questions.values()],
        }.items():
            object.__setattr__(self, key, value)

    def _ids(self, text: str) -> list[int]:
        return list(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _questions(self, question: str) -> tuple[Tensor, Tensor, Tensor]:
        """Ids padded on the right, the position of each entity's last token, and that of the question's."""
        begin, rows, last_of_entity = question.split("{entity}")[0], [], []
        before = [self.model.tokenizer.bos_token_id] if self.bos else []
        for entity in self.entities.answers:
            ids, known = self._ids(question.format(entity=entity)), self._ids(begin + entity)
            if ids[: len(known)] != known:
                raise ValueError(
                    f"{question!r} with {entity!r}: the entity shares a token with what follows; add a space"
                )
            rows.append([*before, *ids])
            last_of_entity.append(len(before) + len(known) - 1)
        ends = torch.tensor([len(row) - 1 for row in rows])
        padded = torch.zeros(len(rows), int(ends.max()) + 1, dtype=torch.long)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = torch.tensor(row)
        device = next(self.model.parameters()).device
        return padded.to(device), torch.tensor(last_of_entity).to(device), ends.to(device)

    def activations(self, attribute: int) -> Float[Tensor, "entities d"]:
        """At the last token of each entity in the question for the attribute."""
        ids, where, ends = self._rows[attribute]
        real = torch.arange(ids.shape[1], device=ids.device) <= ends[:, None]
        parts = zip(ids.split(_BATCH), where.split(_BATCH), real.split(_BATCH), strict=True)
        return torch.cat(
            [
                vectors_at(self.model, some, self.site, attention_mask=mask)[torch.arange(len(some)), at].float().cpu()
                for some, at, mask in parts
            ]
        )

    @torch.no_grad()
    def answers(
        self, attribute: int, entities: Int[np.ndarray, " n"], x: Float[Tensor, "n d"] | None
    ) -> Int[np.ndarray, " n"]:
        """The most probable of the attribute's answers to each question."""
        ids, where, ends = (part[torch.from_numpy(entities).to(part.device)] for part in self._rows[attribute])
        given = []
        for begin in range(0, len(ids), _BATCH):
            window = slice(begin, begin + _BATCH)
            some, at, end = ids[window], where[window], ends[window]
            here = torch.arange(some.shape[1], device=some.device) == at[:, None]
            if x is None:
                logits = self.model(some)
            else:
                new = x[window].to(some.device)[:, None].expand(-1, some.shape[1], -1)
                logits = spliced_logits(self.model, some, self.site, new, where=here)
            at_end = logits[torch.arange(len(some)), end]
            given.append(at_end[:, torch.tensor(self._first[attribute], device=some.device)].argmax(1).cpu().numpy())
        return np.concatenate(given)


ENTITIES: dict[str, Any] = {"cities": cities}
"""Sets of entities of our own, by name."""
