"""A vision-language-action policy small enough to train here, and the closed loop in which its steering is tested."""
