"""What functions and commands are given: of the right kind, within memory, by which name, with what installed."""
