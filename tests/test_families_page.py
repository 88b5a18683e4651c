"""The page of families holds the table that its command prints."""

from pathlib import Path

from benchmarks.families import table


def test_the_page_is_what_the_command_prints() -> None:
    page = Path(__file__).parents[1] / "docs" / "families.md"
    assert table() in page.read_text(), "run python benchmarks/families.py and put what it prints into docs/families.md"
