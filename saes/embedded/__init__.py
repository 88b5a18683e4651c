"""The transcoder set of the embedded model that ships with the package: ``saes.embedded_transcoders()`` loads it.

``benchmarks/embedded_transcoders.py`` made it, and prints its figures, which stand in ``docs/replacement.md``.
"""

from pathlib import Path

TRANSCODERS = Path(__file__).parent / "transcoders"
"""Folder of the set, float16, as ``save_dictionary`` writes one."""
