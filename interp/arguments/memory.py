"""How much memory a device has left."""

from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had there; None where the system does not say.

    Of the CPU what Linux calls available: free, or given up by caches when it is asked for.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    if device.type != "cpu" or not table.is_file():
        return None
    rows = dict(line.split(":", 1) for line in table.read_text(encoding="ascii").splitlines())
    return int(rows["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in rows else None
