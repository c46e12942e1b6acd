"""States in, actions out."""
