"""Which tokens count as massive."""

MASSIVE_TIMES = 10.0
"""A token is massive whose activation has more than this many times the median norm of its text (Sun et al. 2024)."""
