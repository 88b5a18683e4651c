"""Whether everything that is made for a GPU is right on this one: kernels, training steps, resuming, memory, waits.

    python benchmarks/gpu_checks.py --save

Every Triton kernel and one training step of every variant against the reference, in float32 and bfloat16; a stopped and
continued run against a straight one, bit by bit; the peak memory of a TopK step; how often a step waits for the GPU.
The cases are the tests' (``tests/saes/kernels/kernel_checks.py``, ``step_checks.py``). Exits with 1 where one fails.

``--device cpu`` runs the kernels, on smaller cases, in Triton's interpreter (some minutes): that vouches for indices
and sums, not for races, for what a GPU rounds, or for its memory. ``--only PATTERN`` runs the cases whose name
the regular expression is found in; ``--save`` writes ``results/gpu_checks-DEVICE.json``.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

if "cpu" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, which reads it once

import torch
from interleave import RESULTS, machine

from saes.kernels.backend import Backend, backend_for, use
from tests.saes.kernels import kernel_checks, step_checks
from tests.saes.kernels.step_checks import LARGE, SMALL, Size, of_every_variant

WIDE: list[kernel_checks.Shape] = [(1000, 768, 24_579, 32), (257, 1000, 4099, 128)]
"""n, d, d_sae, k of kernels on a card, beside the suite's awkward ones."""
HUGE: Size = (256, 65_536, 8192)
"""Of the step whose memory is measured: a byte for each row and latent would be 512 MiB."""
Run = Callable[[], str | None]


@dataclass(frozen=True)
class Outcome:
    """One case."""

    name: str
    passed: bool
    seconds: float
    note: str


def cases(device: str) -> Iterator[tuple[str, Run]]:
    """Each with its name: what it is about, a colon, and the rest."""
    on_card = device != "cpu"
    kernels = kernel_checks.CASES | (kernel_checks.of_shapes(WIDE) if on_card else {})
    for name, case in kernels.items():
        yield f"kernel {name.split()[0]}: {name}", partial(_on_device, case, device)
    sizes = (SMALL, LARGE) if on_card else (SMALL,)
    for name, step in of_every_variant(step_checks.step_is_the_references, sizes).items():
        yield f"step of {name}", partial(step, "gpu", device)
    # The interpreter has nothing to say on bits, and would take minutes.
    backend = "gpu" if on_card else "cpu"
    for name, run in of_every_variant(step_checks.resumed_is_bit_equal, sizes).items():
        yield f"resumed {name}", partial(run, backend, device)
    size = HUGE if on_card else SMALL
    for name, step in of_every_variant(step_checks.step_holds_no_dense_matrix, (size,), names=("topk",)).items():
        yield f"memory of {name}", partial(step, "gpu", device)
    for name, step in of_every_variant(step_checks.step_waits_no_oftener, sizes[-1:], precisions=("float32",)).items():
        yield f"waits of {name}", partial(step, "gpu", device)


def _on_device(case: Callable[[Backend], None], device: str) -> None:
    with use("gpu"), torch.device(device):
        case(backend_for(torch.empty(0)))


def outcome(name: str, run: Run) -> Outcome:
    """Whatever a case raises is a failure; the others still run."""
    began = time.perf_counter()
    try:
        passed, note = True, run() or ""
    except Exception as error:
        passed, note = False, f"{type(error).__name__}: {error}"
    return Outcome(name, passed, time.perf_counter() - began, note)


def table(outcomes: list[Outcome]) -> str:
    """A line for each group; a failure's first line where there is one, else what was measured last."""
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(one.name.split(": ")[0], []).append(one)
    lines = ["| what | cases | result | seconds | |", "|---|---|---|---|---|"]
    for group, members in groups.items():
        failed = [one for one in members if not one.passed]
        result = f"**{len(failed)} FAILED**" if failed else "passed"
        note = f"{failed[0].name.split(': ')[1]}: {_first_line(failed[0].note)}" if failed else members[-1].note
        seconds = sum(one.seconds for one in members)
        lines.append(f"| {group} | {len(members)} | {result} | {seconds:.1f} | {note} |")
    return "\n".join(lines)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def versions() -> dict[str, str | None]:
    """Of what computes."""
    found: dict[str, str | None] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    for package in ("triton", "deepfield"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a checkout that is not installed
            found[package] = None
    return found


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="PATTERN")
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else asked.device
    if device == "cpu":
        where = f"{machine()['cpu']}: no GPU, Triton's interpreter"
    elif torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    else:
        parser.error("there is no GPU here; --device cpu runs the kernels in Triton's interpreter")
    if not (chosen := [(name, run) for name, run in cases(device) if asked.only.search(name)]):
        parser.error(f"no case has {asked.only.pattern!r} in its name")
    outcomes = [outcome(name, run) for name, run in chosen]
    failed = [one for one in outcomes if not one.passed]
    print(table(outcomes))
    for one in failed:
        print(f"\nFAILED {one.name}\n{one.note}")
    seconds = time.perf_counter() - began
    known = ", ".join(f"{name} {number}" for name, number in versions().items() if number)
    print(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} cases passed in {seconds:.0f} s.")
    print(f"{where}; {known}; Python {machine()['python']}; {machine()['date']}")
    if asked.save:
        RESULTS.mkdir(exist_ok=True)
        content = {
            "where": where,
            "machine": machine(),
            "versions": versions(),
            "seconds": seconds,
            "only": asked.only.pattern,
            "cases": [asdict(one) for one in outcomes],
        }
        path = RESULTS / f"gpu_checks-{device}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"written to {path}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
