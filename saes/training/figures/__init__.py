"""What is told of a run beside its log: the data before the first step, and trackers that the figures go to."""
