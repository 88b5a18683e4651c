"""Several processes as one: groups, grids of them, and how they start."""
