"""Rules that hold for every command: names of options, examples, answers for scripts, logs that can be followed."""

import dataclasses
import inspect
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App
from rich.console import Console

from interp.arguments.renamed import RENAMED, with_new_names
from interp.cli import build_app, main
from interp.embedded import TEXT_FOLDER
from interp.terminal import progress as progress_module
from interp.terminal.answers import answer, answering, plain
from interp.terminal.mode import in_command, mode, say_plan
from interp.terminal.progress import Advance, counted, progress

TEXT = str(TEXT_FOLDER / "heldout.jsonl")


def leaves(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command that does something, by its words."""
    if app.default_command is not None and path:
        yield path, app
    for name in app:
        if not name.startswith("-"):
            yield from leaves(app[name], (*path, name))


COMMANDS = dict(leaves(build_app()))


def options(app: App) -> dict[str, str]:
    """Name of each option, with what help says of it."""
    return {
        name: argument.parameter.help or ""
        for argument in app.assemble_argument_collection(parse_docstring=True)
        for name in argument.names
        if name.startswith("--")
    }


def test_all_are_found() -> None:
    assert len(COMMANDS) > 25
    assert {("train",), ("massive",), ("massive", "sweep"), ("vectors", "find")} <= set(COMMANDS)


# What a name means wherever it is an option.
MEANINGS = {
    "--out": r"older",
    "--html": r"[Pp]age",
    "--save": r"JSON|\.gif",
    "--figure": r"SVG",
    "--dtype": r"^Of the (model's )?weights",
    "--device": r"GPU",
    "--revision": r"checkpoint|Of the model",
    "--seed": r"Of |Seed",
    "--report": r"^$",
}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_option_means_the_same_in_every_command(path: tuple[str, ...]) -> None:
    said = options(COMMANDS[path])
    assert "--json" not in said  # which every command takes
    assert "--quiet" not in said
    for name, meaning in MEANINGS.items():
        if name in said:
            assert re.search(meaning, said[name]), f"{' '.join(path)} {name}: {said[name]}"
    bare = [name for name, text in said.items() if not text and not re.match("--(no|empty)-", name)]
    assert bare == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_is_understood(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    app = build_app()
    with pytest.raises(SystemExit):
        app([*path, "--help"], console=Console(width=2000))
    page = capsys.readouterr().out
    assert "--empty-" not in page
    assert "Of every command: --json prints" in " ".join(page.split())
    broken = [text for text in options(COMMANDS[path]).values() if " ".join(text.split()) not in page]
    assert broken == [], "options are running text, whatever their docstring's lines"
    epilogue = next(a for a in (COMMANDS[path], COMMANDS.get(path[:1], app[path[0]])) if a.help_epilogue).help_epilogue
    assert epilogue
    lines = [line.strip() for line in epilogue.splitlines() if line.startswith("  interp ")]
    own = [line for line in lines if app.parse_commands(shlex.split(line)[1:])[0] == path]
    assert own, f"no example of interp {' '.join(path)}"
    for line in own:
        arguments = [word for word in shlex.split(line)[1:] if word not in ("--json", "--quiet")]
        build_app().parse_args(arguments, print_error=False, exit_on_error=False)


def test_renamed_options_are_gone_and_their_new_names_there() -> None:
    for (command, old), new in RENAMED.items():
        said = options(COMMANDS[tuple(command.split())])
        assert new in said
        assert old not in said or (command, old) == ("cache", "--dtype")
    arguments, notes = with_new_names(["cache"], ["cache", "gpt2", "--dtype", "int8"])
    assert arguments == ["cache", "gpt2", "--store-dtype", "int8"]
    assert notes == ["note: --dtype of interp cache is --store-dtype now"]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_groups_of_options_have_the_defaults_of_their_class(path: tuple[str, ...]) -> None:
    """With one of them given, the others come from the class: a default that departs from it would be lost."""
    for name, parameter in inspect.signature(inspect.unwrap(COMMANDS[path].default_command)).parameters.items():
        if dataclasses.is_dataclass(parameter.default):
            assert parameter.default == type(parameter.default)(), name


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_an_answer_for_scripts(path: tuple[str, ...]) -> None:
    source = inspect.getsource(inspect.unwrap(COMMANDS[path].default_command))
    assert "answer(" in source or re.search(r"measure\(\s*model", source)  # which answers
    if "answer(" not in source:
        from interp.commands.dynamics import one_or_all

        assert "answer(" in inspect.getsource(one_or_all.measure)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["doctor"], "loadable_offline"),
        (["doctor", "embedded"], "layers"),
        (["patch", "embedded", "--prompts", "2", "--nodes", "z"], "exact"),
        (["massive", "embedded", "--data", TEXT, "--sequences", "1", "--context", "32"], "layers"),
        (["codes", "embedded", "--data", TEXT, "--sequences", "4", "--context", "32"], "codes"),
        (["vectors", "find", "embedded", "--words", " the", "--top", "3"], "members"),
    ],
)
def test_json_is_all_that_stands_on_stdout(
    line: list[str], found: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*line, "--json"])
    shown = capsys.readouterr()
    assert ended.value.code in (0, 1), shown.err
    assert found in json.loads(shown.out)


def test_training_answers_with_its_verdict_and_is_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--model", "embedded", "--data", TEXT, "--k", "4", "--d-sae", "64", "--tokens", "2k"]
    line += ["--site", "blocks.1.hook_resid_post", "--batch-size", "512", "--out", str(tmp_path / "sae")]
    with pytest.raises(SystemExit):
        main([*line, "--json", "--quiet"])
    shown = capsys.readouterr()
    (run,) = json.loads(shown.out)
    assert run["verdict"]["latents"] == 64
    assert "parameters" not in shown.err  # the plan
    assert "median norm" not in shown.err  # the log


def test_an_answer_is_json_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from interp.metrics import Estimate

    value = {"a": Estimate(1.0, float("nan"), 1), 2: torch.tensor([1, 2]), "path": Path("x"), "none": None}
    with answering():
        print("for people")
        answer(value)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "a": {"value": 1.0, "standard_error": None, "n": 1, "blocks": False}, "2": [1, 2], "path": "x", "none": None
    }  # fmt: skip
    assert shown.err == "for people\n"
    answer(value)
    assert capsys.readouterr().out == ""
    assert plain((float("inf"), True)) == [None, True]


def test_progress_in_a_log_is_plain_lines_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "EVERY_SECONDS", 0.0)
    assert list(counted(range(3), "look")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    with in_command(quiet=True):
        list(counted(range(3), "look"))
        say_plan("a plan")
    assert capsys.readouterr() == ("", "")
    with in_command():
        say_plan("a plan")
        with progress("outer", 2, unit="rounds") as advance:
            for _ in range(2):
                list(counted(range(2), "inner", unit="rows"))
                advance(1, "FVU 0.5")
    shown = capsys.readouterr()
    assert shown.out == "a plan\n"
    lines = shown.err.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("inner: 1 of 2 (50%) rows, 0:00 so far")
    assert lines[-1].startswith("outer: 2 of 2 (100%) rounds")
    assert lines[-1].endswith("FVU 0.5")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown.err)
    assert not mode().command


def test_a_bar_is_drawn_on_a_terminal_and_taken_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_BAR_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with in_command(), progress("work", 4) as advance:
        list(counted(range(2), "part"))
        advance(4)
    assert "work" in capsys.readouterr().err
    assert progress_module._display is None


def test_what_is_left_is_told_from_the_pace() -> None:
    work = Advance("w", 10, done=4, unit="", display=None)
    assert work.left() is None
    work._begun -= 8
    work(2)
    assert work.left() == pytest.approx(16, rel=0.05)
    assert str(work).startswith("w: 6 of 10 (60%), 0:08 so far, 0:16 left")


def test_completion_knows_the_commands() -> None:
    script = build_app().generate_completion(shell="bash")
    assert "darkmatter" in script
    assert "--d-sae" in script
