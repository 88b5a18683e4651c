"""The two ways of a newcomer, typed from the documents and timed: own text to explained features, and heads of IOI.

    python benchmarks/first_hour.py --out runs/first_hour --pictures docs/pictures

types the commands of docs/how-to/own-text.md on the text that ships and prints the seconds of each as a table: by the
clock, and of the processor, which a busy machine changes little. With ``--pictures`` it photographs the pages that they
wrote, and one of dark matter, for the README (with a Chromium).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
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


def typed(line: str, folder: Path) -> tuple[float, float]:
    """Seconds of a command, from its start to its end, as a user waits for them; and of the processor."""
    command = [sys.executable, "-m", "interp", *line.split()[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    begin, before = time.monotonic(), os.times()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    after = os.times()
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - begin, work


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
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the pages")
    options = parser.parse_args()
    write_text(options.out)
    rows = [(line.split()[1], *typed(line, options.out)) for line in lines()]
    rows.append(("together", sum(clock for _, clock, _ in rows), sum(work for *_, work in rows)))
    print("| command | seconds | of the processor |\n|---|---:|---:|")
    for command, clock, work in rows:
        print(f"| {command} | {clock:.0f} | {work:.0f} |", flush=True)
    if options.pictures is not None:
        typed(DARK_MATTER, options.out)
        photograph(options.out / "runs" / "own", options.pictures)


if __name__ == "__main__":
    main()
