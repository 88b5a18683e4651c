"""RAVEL on planted entities, where a perfect dictionary scores 1, and on a model that knows no cities."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from interp.sites.site import Site
from saes import SAE, JumpReLU, TopK
from saes.suites import Planted, ravel
from saes.suites.texts.entities import AskedModel, Entities, cities, read_entities
from tests.saes.evaluation.evaluated import sae_at_site
from tests.saes.suites.test_scr_and_tpp import choices, random_dictionary

SITE = Site.parse("blocks.2.hook_resid_post")


@dataclass
class PlantedWorld:
    """Entities are rows; an attribute is which child of a root fires, and who answers sees the largest."""

    planted: Planted
    x: Tensor
    truth: np.ndarray
    name: str = "planted"

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(f"a{number}" for number in range(len(self.truth)))

    def activations(self, attribute: int) -> Tensor:
        return self.x

    def answers(self, attribute: int, entities: np.ndarray, x: Tensor | None) -> np.ndarray:
        seen = self.x[entities] if x is None else x
        along = seen @ self.planted.directions[self.planted.children(attribute)].T
        return along.argmax(1).numpy()


def world(*counts: int, n: int = 40) -> PlantedWorld:
    planted = choices(*counts)
    rows = planted.rows(n, seed=2)
    truth = [rows.fires[:, planted.children(root)].float().argmax(1).numpy() for root in range(len(counts))]
    return PlantedWorld(planted, rows.x, np.stack(truth))


def test_a_perfect_dictionary_disentangles() -> None:
    three = world(4, 3, 2)
    found = ravel(three.planted.true_dictionary(), three, ns=(1, 2, 3, 4, 9))
    assert [one.attribute for one in found.attributes] == ["a0", "a1", "a2"]
    for number, one in enumerate(found.attributes):
        assert one.recall == 1
        assert one.entities == 40
        assert set(one.latents) <= set(three.planted.children(number))
        assert one.scores.cause.value == 1
        assert one.scores.isolation.value == pytest.approx(1)
        assert one.scores.cause.standard_error == 0  # never wrong
        assert one.whole.cause.value == 1
        assert one.whole.isolation.value == 0
    assert found.scores.disentangle.value == pytest.approx(1)
    assert found.whole.disentangle.value == pytest.approx(0.5)
    assert found.scores.cause.n == 20  # base entities that are held out


def test_latents_of_whole_entities_cannot_isolate() -> None:
    """A latent for each pair of values: exchanging it exchanges both attributes."""
    two = world(2, 3, n=60)
    a, b = two.planted.children(0), two.planted.children(1)
    sae = SAE(24, 6, JumpReLU(), subtract_b_dec=False)
    with torch.no_grad():
        pairs = torch.stack([two.planted.directions[i] + two.planted.directions[j] for i in a for j in b])
        sae.W_dec.copy_(pairs)
        sae.W_enc.copy_(pairs.T / 2)
        sae.threshold.fill_(0.75)  # above 1/2, which a latent with one of its two values has
    whole = ravel(sae, two, ns=(6,))
    assert whole.scores.cause.value == 1
    assert whole.scores.isolation.value == 0
    assert whole.scores.disentangle.value == 0.5


def test_a_dictionary_that_knows_nothing_changes_nothing() -> None:
    two = world(4, 4)
    nothing = two.planted.true_dictionary()
    with torch.no_grad():
        nothing.W_dec.zero_()
    found = ravel(nothing, two, ns=(1, 4)).attributes[0].scores
    assert found.cause.value == 0
    assert found.isolation.value == 1
    random = ravel(random_dictionary(), two, ns=(1, 2)).scores
    assert random.disentangle.value < 0.75


def test_shuffled_truth_is_refused() -> None:
    two = world(4, 4)
    shuffled = replace(two, truth=np.stack([two.truth[0], np.random.default_rng(0).permutation(two.truth[1])]))
    with pytest.raises(ValueError, match=r"does not know the attribute 'a1': it answers \d+% of the entities rightly"):
        ravel(two.planted.true_dictionary(), shuffled)
    with pytest.raises(ValueError, match="has 1 attribute"):
        ravel(two.planted.true_dictionary(), replace(two, truth=two.truth[:1]))
    few = replace(two, x=two.x[:6], truth=two.truth[:, :6])
    with pytest.raises(ValueError, match="knows every attribute of 6 of 6 entities, and 8 are needed"):
        ravel(two.planted.true_dictionary(), few)


def test_the_embedded_model_knows_no_cities(embedded: TransformerBridge) -> None:
    asked = AskedModel(model=embedded, site=SITE, entities=cities(), bos=True)
    with pytest.raises(ValueError, match="cities: the model does not know the attribute 'country': it answers"):
        ravel(sae_at_site(TopK(8)), asked)
    people = {"Mary": "she", "Anna": "she", "John": "he", "Tom": "he"}
    questions = {"sex": "Then {entity} said that", "again": "{entity} and"}
    entities = Entities(
        name="people",
        questions=questions,
        answers={name: {"sex": sex, "again": "the"} for name, sex in people.items()},
    )
    asked = AskedModel(model=embedded, site=SITE, entities=entities, bos=True)
    with pytest.raises(ValueError, match="people: the model does not know the attribute 'sex': it answers 50% of"):
        ravel(sae_at_site(TopK(8)), asked)


def test_a_model_is_asked_where_the_entity_ends(embedded: TransformerBridge) -> None:
    """Activations are those of a run alone, unchanged ones give the same answers, and another entity's its answer."""
    entities = Entities(
        name="two",
        questions={"next": "{entity} and", "other": "Then {entity} saw the"},
        answers={name: {"next": f"{name}", "other": "house"} for name in ("Mary", "John", "Philip")},
    )
    asked = AskedModel(model=embedded, site=SITE, entities=entities, bos=True)
    everybody = np.arange(3)
    x = asked.activations(0)
    ids = [0, *embedded.tokenizer("John and", add_special_tokens=False)["input_ids"]]
    last = 1 + len(embedded.tokenizer("John", add_special_tokens=False)["input_ids"]) - 1
    import interp

    alone = interp.capture(embedded, torch.tensor([ids]), [SITE])[SITE][0, last]
    assert torch.allclose(x[1], alone, atol=1e-4)
    assert (asked.answers(0, everybody, x) == asked.answers(0, everybody, None)).all()
    assert asked.truth.tolist() == [[1, 0, 2], [0, 0, 0]]


def test_files_of_entities(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    whole = {"questions": {"a": "{entity} is", "b": "is {entity}"}, "entities": {e: {"a": "x", "b": e} for e in "uv"}}
    path.write_text(json.dumps(whole))
    assert read_entities(path).answers["u"]["b"] == "u"
    for change, message in (
        ({"questions": {"a": "it is", "b": "{entity}"}}, "put {entity} into it once"),
        ({"entities": {"u": {"a": "x"}, "v": {"a": "x", "b": "y"}}}, "'u' has no answer for b"),
        ({"questions": {"a": "{entity}"}}, "two attributes and two entities"),
        ({"questions": {"a": 1, "b": "{entity}"}}, "questions and answers are strings"),
        ({"entities": 3}, "is not JSON of questions and entities"),
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=message.replace("{", r"\{")):
            read_entities(path)
    with pytest.raises(ValueError, match="there is no file"):
        read_entities(tmp_path / "none.json")
