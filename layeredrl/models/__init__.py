"""The dynamics side: what may follow a state and an action."""
