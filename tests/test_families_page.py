"""The page of families holds the table that its command prints."""

from pathlib import Path

from benchmarks.families import not_declared, table


def test_the_page_is_what_the_command_prints() -> None:
    page = Path(__file__).parents[1] / "docs" / "families.md"
    text, fix = page.read_text(), "run python benchmarks/families.py and put what it prints into docs/families.md"
    assert table() in text, fix
    assert not_declared() in text, fix
