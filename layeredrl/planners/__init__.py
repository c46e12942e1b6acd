"""Search for the best sequence of actions."""
