"""Checks of settings."""

from collections.abc import Collection


def check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: got {value!r}, expected an integer of at least 1")


def check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value}, expected a number in [0, 1]")


def check_at_least(name: str, value: float, least: float | int) -> None:
    if not value >= least:
        raise ValueError(f"{name}: got {value}, expected at least {least}")


def check_positive(name: str, value: float | int) -> None:
    if not value > 0:
        raise ValueError(f"{name}: got {value}, expected a positive number")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")
