"""Measures of risk in plain Python: from the returns of each member's particles to one value."""


def mean(returns: list[list[float]]) -> float:
    everything = [value for member in returns for value in member]
    return sum(everything) / len(everything)


def worst_member(returns: list[list[float]]) -> float:
    return min(sum(member) / len(member) for member in returns)


def cvar(alpha: float):
    """The mean of the worst share α, where each of n particles makes up 1 / n, and the last may count in part."""

    def risk(returns: list[list[float]]) -> float:
        ordered = sorted(value for member in returns for value in member)
        total, left = 0.0, alpha
        for value in ordered:
            share = min(1 / len(ordered), left)
            total += share * value
            left -= share
        return total / alpha

    return risk
