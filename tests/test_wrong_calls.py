"""Calls that a newcomer gets wrong: the answer names what was given, what is wanted and the fix, and is no traceback
from deep inside. In a process of its own, where types are not checked, as at a user's."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from interp.arguments.as_typed import as_typed
from interp.arguments.memory import free_memory
from interp.cli import main
from interp.embedded import TEXT_FOLDER

SETUP = """
import torch, interp, saes, circuits
from circuits.tasks import ioi
model = interp.load_model("embedded")
sae = saes.SAE(64, 128, saes.TopK(4), site="blocks.1.hook_resid_post")
config = saes.TrainConfig(site="blocks.1.hook_resid_post", out="plain", k=4)
assert len(ioi(model)) == 16 and len(ioi(model.tokenizer, 2)) == 2
"""
CALLS = {
    "saes.TopK(0)": "topk needs k, a whole number of 1 or more (--k 32); got 0",
    "saes.BatchTopK(2.5)": "batchtopk needs k, a whole number of 1 or more (--k 32); got 2.5",
    "saes.JumpReLU(bandwidth=-1)": "bandwidth is -1; it must be a number above 0",
    "saes.Matryoshka(4, shares=(0.5,))": "shares are (0.5,); they must be rising numbers above 0, the last of them 1",
    "saes.TopAFA(sentinel='x')": "sentinel is 'safe' or 'parity', not 'x'",
    "saes.SAE(64, 128, 'topk')": "activation is 'topk'; pass an object, such as saes.TopK(32)",
    "saes.SAE(64, 128, saes.TopK)": "pass an object, such as saes.TopK(32)",
    "saes.SAE(64.0, 128, saes.TopK(4))": "d_in is 64.0; it must be a whole number of 1 or more",
    "sae.encode([1.0])": "a tensor of rows wanted, not list: pass what interp.capture",
    "sae.encode(torch.zeros(3, 65))": "the rows have 65 dimensions; this SAE reads 64",
    "saes.SAE.load(None)": "a dictionary's folder or hub id wanted, not NoneType: pass a folder, or owner/name/folder",
    "saes.SAE.load(sae)": "a dictionary's folder or hub id wanted, not SAE",
    "ioi(3)": "prompts are drawn for a tokenizer, or for a model that has one, not for int",
    "ioi(model, '4')": "n is '4'; a task has 1 prompt or more",
    "interp.capture(model, 'text')": "no site is named: pass one or a pattern",
    "interp.capture('gpt2', 'text', 'blocks.0.hook_resid_post')": "a model wanted, not str ('gpt2'): pass",
    "interp.load_model(None)": "a model's name or folder wanted, not NoneType",
    "interp.intervene(model, 'blocks.3.hook_mlp_out').__enter__()": "a mapping of sites wanted, not str",
    "interp.intervene(model, {'blocks.3.hook_mlp_out': 'x'}).__enter__()": "an edit of blocks.3.hook_mlp_out wanted",
    "interp.cache_activations(model, 'text', 'blocks.0.hook_resid_post', 'out')": "rows of token ids wanted",
    "interp.massive.layer_stats(model, 'text')": "pass model.to_tokens(text)",
    "interp.massive.detect(model)": "pass what interp.massive.layer_stats(model, tokens) returns",
    "saes.train(config, 'acts')": "a store wanted, not str ('acts'): pass interp.ActivationStore(folder)",
    "saes.train({'k': 4}, 'acts')": "a config wanted, not dict: pass saes.TrainConfig",
    "saes.evaluate('sae', model, 'text.txt')": "an SAE wanted, not str ('sae'): pass saes.SAE.load(folder)",
    "saes.evaluate(sae, model, 'text.txt')": "pass what interp.rows_for(model, data, folder, tokens=...) makes",
    "saes.finetune(sae, model, 'text.txt', saes.FinetuneConfig(out='x'))": "pass what interp.rows_for(",
    "saes.Dictionary(None, ([64], [64]), d_sae=8, activation=saes.TopK(2))": "a layout wanted, not NoneType",
    "circuits.heat_map(3)": "scores of nodes wanted, not int (3): pass what circuits.attribute",
}


def test_wrong_calls_say_what_is_wanted_and_the_fix(tmp_path: Path) -> None:
    code = (
        SETUP
        + f"""
for call in {list(CALLS)!r}:
    try:
        eval(call)
        print("no error")
    except ValueError as error:
        print(" ".join(str(error).split()))
"""
    )
    here = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[0] = {str(here)!r}{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    said = dict(zip(CALLS, run.stdout.splitlines(), strict=True))
    assert {call: said[call] for call, wanted in CALLS.items() if wanted not in said[call]} == {}


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("k is 0; raise k or d_sae", "--k is 0; raise k or --d-sae"),
        ("pass normalise='mean_norm', or leave it out", "pass --normalise mean_norm, or leave it out"),
        ("pass skip=True", "pass --skip"),
        ("/a/k=4,seed=0 is not empty", "/a/k=4,seed=0 is not empty"),
        ("another run (train.d_sae: there 1, asked 2)", "another run (train.d_sae: there 1, asked 2)"),
        ("the tokens and the sites", "the tokens and the sites"),
    ],
)
def test_arguments_are_named_as_options(message: str, typed: str) -> None:
    assert as_typed(message, ["--k", "--d-sae", "--normalise", "--skip", "--seed", "--tokens"]) == typed


def test_a_command_names_its_options_and_refuses_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dictionary of petabytes, before anything of it is made."""
    line = ["train", "--model", "embedded", "--data", str(TEXT_FOLDER / "heldout.jsonl"), "--tokens", "1k", "--k", "4"]
    line += ["--site", "blocks.1.hook_resid_post", "--out", str(tmp_path / "out"), "--d-sae"]
    for size, message in (("2000000000000", "lower --d-sae, or share"), ("0", "error: --d-sae is 0; it must be 1")):
        with pytest.raises(SystemExit) as ended:
            main([*line, size])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "cfg.json").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "concept embedded --positive p.txt --negative p.txt --target x",
            "--positive has 2 prompts, --negative 2",
        ),
        ("concept embedded --positive no.txt --negative p.txt --target x", "there is no file no.txt; give a text file"),
        ("gains embedded --data p.txt --context 0", "--context is 0; a row has 2 tokens or more"),
        ("sae publish no_sae --to . --license mit --data TEXT", ". is not empty; choose a new folder"),
        ("sae publish no_sae --to new --license ' ' --data TEXT", "give a license, such as mit or cc-by-4.0"),
        ("finetune tuned --data TEXT --out ./tuned", "the folder of the SAE itself; choose another"),
        ("patch nowhere --prompts 0", "--prompts is 0; a task has 1 or more"),
        ("graph nowhere --prompt ''", "--prompt is empty; give the text"),
        ("clamp nowhere --data repeated --spec induction:2.1:7", "'induction:2.1:7': strength=7.0 of "),
        ("sae features nowhere --data TEXT --html page.html --examples 0", "--examples is 0; it must be 1 or more"),
        ("monitor embedded --data body.jsonl", "has no column 'text'; it has body: call the text's text, or say which"),
        (
            "massive sweep embedded --data TEXT --steps 7 --out new",
            "--steps 7: embedded has none of these checkpoints; it",
        ),
        ("monitor embedded --data TEXT --steps 7", "--steps 7: embedded has none of these checkpoints; it has 0, 1, 4"),
    ],
)
def test_lines_that_cannot_be_meant(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("one\ntwo\n")
    Path("body.jsonl").write_text('{"body": "a"}\n')
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line.replace("TEXT", str(TEXT_FOLDER / "heldout.jsonl"))))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_memory_is_what_the_system_says() -> None:
    import torch

    free = free_memory(torch.device("cpu"))
    assert free is None or 1 << 20 < free < 1 << 50
    assert free_memory(torch.device("meta")) is None
