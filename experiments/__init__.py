"""Runnable studies. Nothing imports them."""
