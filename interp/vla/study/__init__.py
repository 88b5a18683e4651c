"""What steering does to a policy: rollouts, contests, pages."""
