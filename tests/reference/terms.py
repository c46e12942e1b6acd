"""Terms of an objective in plain Python, for one particle at one step.

Each is called with the means and variances of all members (a list of S numbers each), the action, the reward and
the probability of an end so far, and returns the last two changed.
"""

import math


def action_cost(weight):
    return lambda means, variances, action, reward, ended: (reward - weight * sum(a * a for a in action), ended)


def mopo_penalty(weight, scale):
    def term(means, variances, action, reward, ended):
        norms = [math.hypot(*(math.sqrt(v) / s for v, s in zip(var, scale, strict=True))) for var in variances]
        return reward - weight * max(norms), ended

    return term


def morel_halt(threshold, penalty, scale):
    def term(means, variances, action, reward, ended):
        farthest = max(math.dist(*_in_units([a, b], scale)) for a in means for b in means)
        return (-penalty, 1.0) if farthest > threshold else (reward, ended)

    return term


def disagreement_bonus(weight, scale):
    def term(means, variances, action, reward, ended):
        var = 0.0
        for opinions in zip(*_in_units(means, scale), strict=True):
            middle = sum(opinions) / len(opinions)
            var += sum((opinion - middle) ** 2 for opinion in opinions) / len(opinions)
        return reward + weight * math.sqrt(var), ended

    return term


def _in_units(means, scale):
    return [[x / s for x, s in zip(mean, scale, strict=True)] for mean in means]
