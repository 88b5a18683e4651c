"""What a command says: its plan before the work, how far it has come, and what it found, for people or for scripts."""
