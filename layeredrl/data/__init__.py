"""Transitions: kept, and given to members."""
