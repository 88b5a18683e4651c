"""k-sparse probing where the right accuracy is known, and where it must be chance."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import interp
from interp.sites.site import Site
from saes import TopK
from saes.suites import built_in, examples_from_texts, from_hub, probe_sparsely, read_labelled
from saes.suites.probes import fit
from saes.suites.texts.labelled import LabelledTexts, held_out
from tests.saes.evaluation.evaluated import sae_at_site
from tests.saes.suites.sets import family, labelled, seen, yes_no


def test_a_feature_is_read_from_its_own_latent() -> None:
    planted = family()
    examples, fires = seen(planted, planted.true_dictionary())
    for feature in (0, 3, 7):
        found = probe_sparsely(examples, yes_no(fires[:, feature]))
        assert found.pooled.sparse[0].accuracy.value == 1
        assert found.labels[0].sparse[0].latents == (feature,)
        assert found.pooled.dense.value > 0.999
        assert found.pooled.majority.value == 0.5
        assert found.pooled.sparse[0].accuracy.n == found.pooled.test


def test_absorption_costs_accuracy_by_its_share() -> None:
    """The parent's latent misses 2 of 5 children, which fire in 4 of 5 rows, and is never wrong where it fires."""
    planted = family()
    examples, fires = seen(planted, planted.absorbing_dictionary({6: 1.0, 7: 1.0}), n=8000)
    found = probe_sparsely(examples, yes_no(fires[:, 0]), ks=(1, 3))
    assert found.labels[0].sparse[0].latents == (0,)
    right = found.pooled.sparse[0].accuracy
    assert abs(right.value - (1 - 0.4 * 0.8 / 2)) < 4 * right.standard_error
    assert 0 < right.standard_error < 0.01
    assert found.pooled.sparse[1].accuracy.value > 0.999  # the two that absorb it are next


def test_wrong_labels_bound_every_probe() -> None:
    planted = family()
    examples, fires = seen(planted, planted.true_dictionary())
    wrong = torch.rand(len(fires), generator=torch.Generator().manual_seed(7)) < 0.2
    found = probe_sparsely(examples, yes_no(fires[:, 0] ^ wrong)).pooled
    for right in (found.dense, *(probe.accuracy for probe in found.sparse)):
        # Of balanced answers: P(no | fires not) and P(yes | fires) weigh alike only about.
        yes, no = 0.4 * 0.8 + 0.6 * 0.2, 0.4 * 0.2 + 0.6 * 0.8
        expected = (0.4 * 0.8 / yes + 0.6 * 0.8 / no) / 2
        assert abs(right.value - expected) < 4.5 * right.standard_error


def test_shuffled_labels_give_chance() -> None:
    planted = family()
    examples, fires = seen(planted, planted.true_dictionary(), n=600)
    texts, z = yes_no(fires[:, 0]), []
    for seed in range(12):
        found = probe_sparsely(examples, texts.shuffled(seed=seed), ks=(1, 5), seed=seed).pooled
        for right in (found.dense, *(probe.accuracy for probe in found.sparse)):
            z.append((right.value - 0.5) / right.standard_error)
    assert max(map(abs, z)) < 4
    assert abs(np.mean(z)) < 0.7


def test_several_labels_are_questions_of_their_own() -> None:
    planted = family()
    examples, fires = seen(planted, planted.true_dictionary())
    which = fires[:, [1, 2, 3]].float().argmax(1)
    only = fires[:, [1, 2, 3]].sum(1) == 1
    texts = labelled([f"{i}" for i in which[only].tolist()])
    found = probe_sparsely(examples[only.numpy()], texts, ks=(1,))
    assert [one.label for one in found.labels] == ["0", "1", "2"]
    assert [one.sparse[0].latents for one in found.labels] == [(1,), (2,), (3,)]
    assert found.pooled.sparse[0].accuracy.value == 1
    assert found.pooled.test == sum(one.test for one in found.labels)


def test_a_probe_is_the_logistic_regression_and_knows_no_unit() -> None:
    """Two clusters on a line: the boundary lies between their means, in whatever unit."""
    x = np.concatenate([np.random.default_rng(0).normal(m, 1, 500) for m in (0.0, 8.0)])[:, None]
    y = np.repeat([False, True], 500)
    small, large = fit(x, y), fit(1e3 * x, y)
    assert -small.bias / small.weights[0] == pytest.approx(4, abs=0.3)
    assert large.weights[0] == pytest.approx(small.weights[0] / 1e3)
    constant = fit(np.concatenate([x, np.full_like(x, 3.0)], 1), y)
    assert constant.weights[1] == 0
    assert constant.weights[0] == pytest.approx(small.weights[0], rel=1e-6)


def test_no_group_is_on_both_sides() -> None:
    groups = [str(i // 3) for i in range(60)]
    labels = ["a" if i < 30 else "b" for i in range(60)]
    out = held_out(labels, groups, share=0.3, seed=1)
    assert {groups[i] for i in np.flatnonzero(out)}.isdisjoint({groups[i] for i in np.flatnonzero(~out)})
    assert out.sum() == 18


@pytest.mark.parametrize("position", ["mean", "last"])
def test_examples_are_what_the_model_has(position: str, embedded: TransformerBridge) -> None:
    """Against a loop over texts, each run alone, with dense latents."""
    words = ("Emma was a girl.", "It was a dark night and the rain fell.", "Call me Ishmael.", "He read") * 2
    texts = LabelledTexts(
        name="four", texts=words, labels=tuple("aaaabbbb"), groups=tuple("12345678"), position=position
    )  # type: ignore[arg-type]
    sae, site = sae_at_site(TopK(8)), Site.parse("blocks.2.hook_resid_post")
    found = examples_from_texts(sae, embedded, texts, site, bos="row", batch_rows=3)
    for number, text in enumerate(words):
        ids = [embedded.tokenizer.bos_token_id, *embedded.tokenizer(text, add_special_tokens=False)["input_ids"]]
        whole = interp.capture(embedded, torch.tensor([ids]), [site], attention_mask=torch.ones(1, len(ids)))[site][0]
        x = whole[-1:] if position == "last" else whole[1:]
        assert torch.allclose(found.x[number], x.mean(0), atol=1e-4)
        dense = sae.encode(x).to_dense().mean(0)
        mine = torch.from_numpy(found.latents[[number]].toarray()[0]).float()
        assert torch.allclose(mine, dense, atol=1e-3)


def test_the_sets_that_ship_can_be_split(embedded: TransformerBridge) -> None:
    for name, most in {"number": 2, "names": 2, "books": 2, "authors": 5, "first_letter": 26}.items():
        texts = built_in(name, embedded.tokenizer)
        assert 2 <= len(texts.classes) <= most
        out = held_out(texts.labels, texts.groups)
        assert {texts.labels[i] for i in np.flatnonzero(out)} == set(texts.classes)
    letters = built_in("first_letter", embedded.tokenizer)
    assert all(text.split()[-1][0] == label for text, label in zip(letters.texts, letters.labels, strict=True))


def test_files_of_labelled_texts(tmp_path: Path) -> None:
    lines = [{"text": f"t {i}", "label": i % 2} for i in range(10)] + [{"text": "x", "label": "0", "group": "g"}]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = read_labelled(path)
    assert texts.labels[:2] == ("0", "1")
    assert texts.groups[-2:] == ("text t 9", "group g")
    assert texts.name == "mine.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "a", "label": [1]}\n')
    with pytest.raises(ValueError, match=r"mine.jsonl, line 2: its label is \[1\]"):
        read_labelled(path)
    path.write_text('{"text": "", "label": 1}\n')
    with pytest.raises(ValueError, match="line 1: it is no object with a text"):
        read_labelled(path)
    path.write_text('{"text": "a", "label": 1, "second": 1}\n{"text": "a", "label": 1, "second": null}\n')
    with pytest.raises(ValueError, match="line 2: give every text a second label, or none"):
        read_labelled(path)
    path.write_text('{"text": "a", "label": 1, "group": ["a"]}\n')
    with pytest.raises(ValueError, match=r"line 1: its group is \['a'\]"):
        read_labelled(path)
    path.write_text('{"text": ')
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 1 is not JSON"):
        read_labelled(path)
    with pytest.raises(ValueError, match="there is no file"):
        read_labelled(tmp_path / "none.jsonl")


def test_no_labelled_text_is_lost_or_on_both_sides(tmp_path: Path) -> None:
    """Line ends within a text, a byte order mark, the same text twice, more texts than are taken."""
    path = tmp_path / "mine.jsonl"
    lines = [{"text": f"a\u2028b\x85{i % 10}", "label": i % 10 % 2, "group": None} for i in range(100)]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8-sig")
    texts = read_labelled(path)
    out = held_out(texts.labels, texts.groups)
    sides = [{text for text, held in zip(texts.texts, out, strict=True) if held == each} for each in (True, False)]
    assert len(texts.texts) == 100
    assert sides[0] | sides[1] == {line["text"] for line in lines}
    assert not sides[0] & sides[1]
    lines = [{"text": f"t {i}", "label": "abc"[i // 30]} for i in range(90)]  # in order of labels
    path.write_text("\n".join(map(json.dumps, lines)))
    texts = read_labelled(path, most=60)
    assert (texts.name, texts.classes, len(set(texts.texts))) == ("mine.jsonl, 60 of 90", ("a", "b", "c"), 60)


def test_what_cannot_be_probed_is_named(embedded: TransformerBridge) -> None:
    planted = family()
    examples, fires = seen(planted, planted.true_dictionary(), n=100)
    with pytest.raises(ValueError, match=r"k = \[1, 99\]: each must be from 1 to d_sae = 11"):
        probe_sparsely(examples, yes_no(fires[:, 0]), ks=(1, 99))
    with pytest.raises(ValueError, match="100 examples, 99 texts"):
        probe_sparsely(examples, yes_no(fires[1:, 0]))
    with pytest.raises(ValueError, match="every text has the same label"):
        labelled(["a"] * 9)
    with pytest.raises(ValueError, match="label 'b' has 3 groups of texts; give 4 or more"):
        labelled(["a"] * 9 + ["b"] * 3)
    groups = [str(i // 5) for i in range(100)]
    rare = ["b" if i in (2, 7, 12, 17) else "a" for i in range(100)]  # in groups that begin with another
    with pytest.raises(ValueError, match=r"texts of label 'b' are all trained on: .*give more groups"):
        held_out(rare, groups, share=0.1, seed=0)
    with pytest.raises(ValueError, match="'colour' is not one of the sets number"):
        built_in("colour", embedded.tokenizer)
    with pytest.raises(ValueError, match="no public set known here; there are ag_news"):
        from_hub("imdb")
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE forbids to ask the hub.*; load it once where"):
        from_hub("ag_news")


def test_public_sets_are_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the columns and splits that the hub's cards state; one in the order of its labels, one with names for them."""
    import datasets
    from datasets import ClassLabel, Dataset, Features, Value

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    news = {"text": Value("string"), "label": ClassLabel(names=["World", "Sports"])}
    reviews = {"text": Value("string"), "category": Value("int64"), "rating": Value("float64")}
    for repo, features, labels in (
        ("fancyzhx/ag_news", news, {"label": [i % 2 for i in range(30)]}),
        (
            "canrager/amazon_reviews_mcauley_1and5",
            reviews,
            {"category": [0] * 30, "rating": [1.0] * 20 + [5.0] * 10},
        ),
    ):
        rows = Dataset.from_dict({"text": [f"text {i}" for i in range(30)], **labels}, features=Features(features))
        files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}
        rows.to_parquet(files["train"])
        rows.select(range(3)).to_parquet(files["test"])
        builder = datasets.load_dataset_builder("parquet", data_files=files, cache_dir=str(tmp_path / "made"))
        builder.download_and_prepare()
        place = tmp_path / "cache" / repo.replace("/", "___") / "default/0.0.0" / ("a" * 40)
        place.parent.mkdir(parents=True)
        Path(builder.cache_dir).rename(place)
        for split in files:
            (place / f"parquet-{split}.arrow").rename(place / f"{repo.split('/')[1]}-{split}.arrow")
        facts = json.loads((place / "dataset_info.json").read_text())
        named = {"dataset_name": repo.split("/")[1], "config_name": "default"}
        (place / "dataset_info.json").write_text(json.dumps(facts | named))
    found = from_hub("ag_news")
    assert (found.name, len(found.texts), found.classes) == ("ag_news", 30, ("Sports", "World"))
    assert found.labels[:2] == ("World", "Sports")
    found = from_hub("amazon_reviews", most=12)  # of which the first twelve have one label
    assert (found.name, found.classes) == ("amazon_reviews, 12 of 30", ("1.0", "5.0"))
