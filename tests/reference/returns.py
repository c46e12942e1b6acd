"""What plans are worth in a rollout: one plan, one particle and one step at a time."""

import torch

from tests.reference.risks import mean


@torch.no_grad()
def plan_values(
    model, state, context, plans, reward, *, risk=mean, propagation="ts_inf", members=None, generator=None, **more
):
    """Values `(V, N)` of plans `(V, N, H, A)`; `more` goes to `particle_return`."""
    pairs = [(v, n) for v in range(plans.shape[0]) for n in range(plans.shape[1])]
    rollout = model.rollout(
        torch.stack([state[v] for v, _ in pairs]),
        None if context is None else torch.stack([context[v] for v, _ in pairs]),
        torch.stack([plans[v, n] for v, n in pairs]),
        propagation=propagation,
        members=members,
        generator=generator,
    )
    _, n_members, n_particles, _, _ = rollout.state.shape
    values = torch.zeros(plans.shape[:2])
    for row, (v, n) in enumerate(pairs):
        own_context = None if context is None else context[v]
        returns = [
            [
                particle_return(rollout, row, e, p, own_context, plans[v, n], reward, **more)
                for p in range(n_particles)
            ]
            for e in range(n_members)
        ]
        values[v, n] = risk(returns)
    return values


def particle_return(
    rollout,
    row,
    e,
    p,
    context,
    actions,
    reward,
    *,
    termination=None,
    discount=1.0,
    hard=False,
    terms=(),
    terminal_value=None,
) -> float:
    """Σ γᵗ · P(alive at t) · rewardₜ + γᴴ · P(alive at H) · value.

    Args:
        row, e, p: whose return: of the p-th particle of member `e`.
        context, actions: `(C,)` and `(H, A)`, of the row.
        termination: whether, or how probably, a transition ends the episode; None: the rollout's probability.
        hard: an end with a probability above one half is certain, any other impossible.
        terms: of `tests.reference.terms`.
        terminal_value: of a state `(S,)` and a context.
    """
    states = rollout.state[row, e, p]
    own = min(p, rollout.step_mean.shape[2] - 1)  # there is one for all where particles coincide
    total, alive = 0.0, 1.0
    for t, action in enumerate(actions):
        transition = (states[t], context, action, states[t + 1])
        value = float(reward(*transition))
        ended = float(rollout.term_prob[row, e, p, t] if termination is None else termination(*transition))
        if hard:
            ended = 1.0 if ended > 0.5 else 0.0
        for term in terms:
            means, variances = rollout.step_mean[row, :, own, t], rollout.step_var[row, :, own, t]
            value, ended = term(means.tolist(), variances.tolist(), action.tolist(), value, ended)
        total += discount**t * alive * value
        alive *= 1.0 - ended
    if terminal_value is not None:
        total += discount ** len(actions) * alive * float(terminal_value(states[-1], context))
    return total
