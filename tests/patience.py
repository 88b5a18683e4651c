"""How long tests wait for other processes: as long as a slow, busy machine may need, for only a hang is a fault."""

PATIENCE = 1800
"""Seconds."""
