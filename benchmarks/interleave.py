"""Runs contestants in turn and reports ratios from that one run.

Each contestant is a persistent process in its own interpreter: set up once, warmed up, then told to run once per
round. Contestants take turns (the order rotates), so that a slow minute of the machine hits all of them alike; the
figure to quote is the median of the per-round ratios to the floor.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Entry:
    """One contestant: a label and the command line of its worker."""

    label: str
    command: tuple[str, ...]


@dataclass
class Measured:
    """What one contestant did; `foreign_cores` is the load that was neither its own nor idle, for each run."""

    label: str
    versions: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    foreign_cores: list[float] = field(default_factory=list)
    peak_rss_mb: float | None = None
    difference: str = ""
    failure: str | None = None


class _Worker:
    def __init__(self, entry: Entry, threads: int) -> None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = (
            os.environ | dict.fromkeys(names, str(threads)) | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        )
        self.process = subprocess.Popen(
            entry.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.measured = Measured(entry.label)
        first = self._answer()
        self.measured.versions = first.get("versions", {})

    def ask(self, do: str, **more: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the worker died (see its stderr above)"}
        if "error" in answer:
            self.measured.failure = answer["error"]
        return answer

    def close(self) -> None:
        if self.process.poll() is None and self.measured.failure is None:
            self.measured.peak_rss_mb = self.ask("stop").get("peak_rss_mb")
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def interleave(
    entries: Sequence[Entry],
    *,
    rounds: int,
    warm_up: int,
    threads: int,
    results: Path,
    compare: Callable[[Path, Path], str],
) -> list[Measured]:
    """Run every contestant `rounds` times in turn; the first entry is the floor that the others are compared with.

    A contestant that fails keeps its place in the answer, with its error as `failure`.
    """
    workers: list[_Worker] = []
    try:
        for entry in entries:
            workers.append(_Worker(entry, threads))
        for worker in workers:
            for _ in range(warm_up if worker.measured.failure is None else 0):
                worker.ask("run")
        _compare_results(workers, results, compare)
        for round_number in range(rounds):
            running = [worker for worker in workers if worker.measured.failure is None]
            for position in range(len(running)):
                _run_once(running[(position + round_number) % len(running)])
    finally:
        for worker in workers:
            worker.close()
    return [worker.measured for worker in workers]


def _run_once(worker: _Worker) -> None:
    busy_before = _busy_cpu_seconds()
    answer = worker.ask("run")
    if "error" in answer:
        return
    worker.measured.seconds.append(answer["seconds"])
    if busy_before is not None:
        busy = (_busy_cpu_seconds() or busy_before) - busy_before
        worker.measured.foreign_cores.append(max(0.0, busy - answer["cpu_seconds"]) / answer["seconds"])


def _compare_results(workers: Sequence[_Worker], folder: Path, compare: Callable[[Path, Path], str]) -> None:
    paths: list[Path | None] = []
    for number, worker in enumerate(workers):
        path = None
        if worker.measured.failure is None:
            answer = worker.ask("result", path=str(folder / f"result-{number}.safetensors"))
            path = Path(answer["path"]) if answer.get("path") else None
        paths.append(path)
    floor = paths[0]
    for worker, path in zip(workers, paths, strict=True):
        comparable = floor is not None and path is not None
        worker.measured.difference = compare(floor, path) if comparable else "own weights"  # type: ignore[arg-type]


def _busy_cpu_seconds() -> float | None:
    """CPU seconds that all processes, and other guests of a shared host, have used since boot (Linux; else None)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def table(measured: Sequence[Measured], *, tokens: int) -> str:
    """A Markdown table; times of the contestants relative to the first one's, round by round."""
    floor = measured[0].seconds
    lines = [
        "| contestant | median s | min-max s | tokens/s | time / floor (median of rounds) | peak RSS MB "
        "| difference to floor | foreign cores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        if one.failure is not None or not one.seconds:
            lines.append(f"| {one.label} | failed: {one.failure} | | | | | | |")
            continue
        median = statistics.median(one.seconds)
        ratio = statistics.median(a / b for a, b in zip(one.seconds, floor, strict=False)) if floor else float("nan")
        foreign = f"{statistics.median(one.foreign_cores):.2f}" if one.foreign_cores else "?"
        lines.append(
            f"| {one.label} | {median:.3f} | {min(one.seconds):.3f}-{max(one.seconds):.3f} | {tokens / median:,.0f} "
            f"| {ratio:.3f} | {one.peak_rss_mb or float('nan'):.0f} | {one.difference} | {foreign} |"
        )
    versions = sorted({f"{name} {version}" for one in measured for name, version in one.versions.items()})
    return "\n".join([*lines, "", f"Versions: {', '.join(versions)}."])


def machine() -> dict[str, str | int | None]:
    """What the numbers were measured on: CPU model, cores, operating system, Python, date (UTC)."""
    cpu_info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in _lines(cpu_info) if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def save(name: str, measured: Sequence[Measured], settings: Mapping[str, Any]) -> Path:
    """Write everything measured as JSON under `results/` and return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"machine": machine(), "settings": dict(settings), "contestants": [asdict(one) for one in measured]}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
