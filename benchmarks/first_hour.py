"""The two ways of a newcomer, typed from the documents and timed: own text to explained features, and heads of IOI.

    python benchmarks/first_hour.py --out runs/first_hour --install --pictures docs/pictures

types the commands of docs/how-to/own-text.md on the text that ships and prints the seconds of each as a table: by the
clock, and of the processor, which a busy machine changes little; and how busy it was. With ``--install`` it begins as a
newcomer does: with a clone of what is committed and a fresh environment, first what ``make demo`` installs, then the
whole stack, each with its packages and size; the commands are typed there. With ``--pictures`` it photographs the pages
that they wrote, and one of dark matter, for the README (with a Chromium; in the environment that runs this).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from interp.embedded import TEXT_FOLDER

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "own-text.md"
DARK_MATTER = "interp darkmatter --sae runs/own/sae --store runs/own/acts --out runs/own/dark_matter --tokens 40000"
# Page, what is done there first, and the height in pixels.
PICTURES = {
    "features": ("features.html", "document.querySelectorAll('#list > *')[200].click()", 640),
    "explorer": ("circuit.html", "document.querySelector('.stage').scrollIntoView({block: 'center'})", 700),
    "dark-matter": ("dark_matter/darkmatter.html", "document.querySelector('.js-plotly-plot').scrollIntoView()", 400),
}


def lines() -> list[str]:
    """The commands of the page, in its order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def write_text(folder: Path) -> None:
    """What the page takes for granted: a folder of own text, and other text to measure on."""
    (folder / "my_text").mkdir(parents=True, exist_ok=True)
    for part, where in (("train", folder / "my_text"), ("heldout", folder)):
        shutil.copy(TEXT_FOLDER / f"{part}.jsonl", where / f"{part}.jsonl")
    texts = [json.loads(line)["text"] for line in (folder / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    (folder / "held_out.txt").write_text("\n".join(texts), encoding="utf-8")


def timed(command: list[str], folder: Path, environment: Mapping[str, str] = os.environ) -> tuple[float, float]:
    """Seconds of a command, from its start to its end, as a user waits for them; and of the processor."""
    begin, before = time.monotonic(), os.times()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    after = os.times()
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - begin, work


def typed(line: str, folder: Path, python: Path) -> tuple[float, float]:
    """A line of the page, in a Python's environment."""
    own = {"PYTHONPATH": str(ROOT)} if python == Path(sys.executable) else {}
    return timed([str(python), "-m", "interp", *line.split()[1:]], folder, os.environ | own)


def installed(folder: Path) -> Path:
    """A clone with its environment, whose Python is returned; what was installed is printed."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    python = folder / ".venv" / "bin" / "python"
    pip = [str(python), *"-m pip install --quiet --constraint constraints.txt --editable .[default]".split()]
    steps = {"what make demo installs": ["make", "--silent", ".venv/core"], "the whole stack, besides": pip}
    print("| installed | seconds | of the processor | packages | GB |\n|---|---:|---:|---:|---:|")
    for name, command in steps.items():
        clock, work = timed(command, folder)
        listed = subprocess.run([python, "-m", "pip", "list", "--format", "freeze"], check=True, capture_output=True)
        size = sum(file.lstat().st_blocks * 512 for file in (folder / ".venv").rglob("*"))
        count = len(listed.stdout.splitlines())
        print(f"| {name} | {clock:.0f} | {work:.0f} | {count} | {size / 1e9:.2f} |", flush=True)
    print()
    return python.absolute()


def photograph(pages: Path, pictures: Path) -> None:
    """The pages as they look in a window of 1,100 pixels."""
    from playwright.sync_api import sync_playwright

    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (page, first, height) in PICTURES.items():
            window = browser.new_page(viewport={"width": 1100, "height": height})
            window.goto((pages / page).resolve().as_uri())
            window.wait_for_timeout(3000)
            window.evaluate(first)
            window.wait_for_timeout(1000)
            window.screenshot(path=pictures / f"{name}.png")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/first_hour"))
    parser.add_argument("--install", action="store_true", help="begin with a clone and a fresh environment")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the pages")
    options = parser.parse_args()
    begin = os.getloadavg()[0]
    python = installed(options.out / "clone") if options.install else Path(sys.executable)
    write_text(options.out)
    rows = [(line.split()[1], *typed(line, options.out, python)) for line in lines()]
    rows.append(("together", sum(clock for _, clock, _ in rows), sum(work for *_, work in rows)))
    print("| command | seconds | of the processor |\n|---|---:|---:|")
    for command, clock, work in rows:
        print(f"| {command} | {clock:.0f} | {work:.0f} |", flush=True)
    end = os.getloadavg()[0]
    print(f"\n{date.today()}, {os.cpu_count()} cores, load {begin:.1f} at the beginning, {end:.1f} at the end")
    if options.pictures is not None:
        typed(DARK_MATTER, options.out, python)
        photograph(options.out / "runs" / "own", options.pictures)


if __name__ == "__main__":
    main()
