"""The worker's side of `interleave.py`: set up once, then answer JSON lines. Needs nothing but the standard library,
so that it runs in every peer's environment.

    request "run"    -> {"seconds": …, "cpu_seconds": …}
    request "result" -> {"path": …}   the contestant's output, for the comparison with the floor's
    request "stop"   -> {"peak_rss_mb": …}
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Contestant:
    """What a set-up function returns: `run` is timed; `save_result` writes what `run` returned to a file."""

    run: Callable[[], Any]
    packages: tuple[str, ...]
    save_result: Callable[[Any, Path], None] | None = None


def serve(set_up: Callable[[], Contestant]) -> None:
    """Speak the protocol until told to stop. Whatever libraries print goes to stderr, never into the protocol."""
    # On Windows neither `resource` nor this duplication of descriptors exists; the harness is for Linux and macOS.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        contestant = set_up()
    except Exception as error:
        traceback.print_exc()
        reply({"error": f"{type(error).__name__}: {error}"})
        return
    reply({"versions": {name: importlib.metadata.version(name) for name in contestant.packages}})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "run":
                reply(_timed(contestant.run))
            elif request["do"] == "result":
                reply(_result(contestant, Path(request["path"])))
            else:
                reply({"peak_rss_mb": _peak_rss_mb()})
                return
        except Exception as error:
            traceback.print_exc()
            reply({"error": f"{type(error).__name__}: {error}"})


def _timed(run: Callable[[], Any]) -> dict[str, Any]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    del result
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def _result(contestant: Contestant, path: Path) -> dict[str, Any]:
    if contestant.save_result is None:
        return {"path": None}
    contestant.save_result(contestant.run(), path)
    return {"path": str(path)}


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
