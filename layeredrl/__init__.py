"""Learn a probabilistic model of an environment, know how far to trust it, and plan with it."""
