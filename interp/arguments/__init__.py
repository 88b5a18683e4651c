"""What functions and commands are given: whether it is of the right kind, fits memory, and what it is called."""
