"""How much goes through a model at once: as many prompts, and copies of them, as a budget of memory takes."""

MEMORY = 256 * 2**20
"""Bytes of activations at once, beside the model's weights and the scores. A GPU is faster with more."""


def at_once(items: int, *, bytes_each: int, memory: int) -> int:
    """How many of ``items`` fit into ``memory`` bytes, evenly filled batches of them; at least 1, whatever one takes.

    Raises:
        ValueError: a budget of nothing.
    """
    if not memory > 0:
        raise ValueError(f"memory is {memory} bytes; it must be above 0 ({MEMORY}, a quarter of a GiB, is the default)")
    most = max(1, min(items, memory // bytes_each))
    batches = -(-items // most)
    return -(-items // batches)


def slices(items: int, size: int) -> list[slice]:
    """``items`` cut into batches of ``size``, in order."""
    return [slice(begin, min(begin + size, items)) for begin in range(0, items, size)]
