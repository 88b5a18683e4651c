"""The page of published dictionaries holds what its command prints."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from benchmarks.dictionaries import (
    LAYOUTS,
    RELEASES,
    first_of,
    layout_rows,
    markdown,
    place_of,
    played_cache,
    release_rows,
    row,
    small_weights,
    summary,
)
from saes.published.releases import table

PAGE = Path(__file__).parents[2] / "docs" / "dictionaries.md"
FIX = "run python benchmarks/dictionaries.py and put what it prints into docs/dictionaries.md"


def first_by_loader() -> list[str]:
    releases = table()["releases"]
    return list({releases[name]["loader"]: name for name in reversed(releases)}.values())


def test_a_release_of_each_layout_stands_there_as_it_loads() -> None:
    page, weights = PAGE.read_text(encoding="utf-8"), small_weights()
    with played_cache() as cache:
        for release in first_by_loader():
            line = row(first_of(release), cache=cache, weights=weights)
            assert f"| {' | '.join(line)} |" in page, FIX
    for release in table()["releases"]:
        assert f"| {release} |" in page


def test_a_dictionary_at_another_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The site that is compared is from names alone, so that a reader that errs shows."""
    entry = first_of("gemma-scope-2b-pt-mlp")
    assert place_of(entry) == ("blocks.0.hook_mlp_out", None)
    with played_cache() as cache:
        monkeypatch.setattr("benchmarks.dictionaries.place_of", lambda entry: ("blocks.1.hook_mlp_out", None))
        line = row(entry, cache=cache, weights=small_weights())
    assert line[-1] == "at another place than blocks.1.hook_mlp_out"


def test_real_files_are_loaded_by_name_and_measured(tmp_path: Path) -> None:
    """``--hub``, from a cache that was filled before; where there is nothing the reason stands in the row."""
    release = "gpt2-small-res-jb"
    weights = small_weights()
    before = constants.HF_HUB_CACHE
    with played_cache() as cache:
        filled = row(first_of(release), cache=cache, weights=weights)
        again = row(first_of(release), cache=None, weights=None)
        assert again[:5] == filled[:5]
        assert again[-1] == filled[-1]
        text = tmp_path / "text.txt"
        text.write_text("Call me Ishmael.")
        assert "not measured: " in row(first_of(release), cache=None, weights=None, data=text)[-1]
    assert before == constants.HF_HUB_CACHE
    with played_cache():
        assert row(first_of(release), cache=None, weights=None)[-1].startswith("refused: ")


@pytest.mark.slow
def test_the_page_is_what_the_command_prints() -> None:
    page, rows = PAGE.read_text(encoding="utf-8"), release_rows()
    for part in (markdown(LAYOUTS, layout_rows()), summary(rows), markdown(RELEASES, rows)):
        assert part in page, FIX
