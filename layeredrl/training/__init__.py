"""Collect, fit, evaluate, watch."""
