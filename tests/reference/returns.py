"""Discounted returns of a rollout, one particle and one step at a time."""

import torch


@torch.no_grad()
def expected_return(rollout, row, context, actions, reward, *, termination=None, discount=1.0) -> float:
    """Mean over the particles of one row of a rollout of Σ γᵗ · P(alive at t) · rewardₜ.

    `context (C,)` and `actions (H, A)` are those of the row. Without `termination`, the rollout's probability of
    termination counts.
    """
    states, term_prob = rollout.state[row].detach(), rollout.term_prob[row].detach()
    n_members, n_particles, n_times, _ = states.shape
    returns = []
    for e in range(n_members):
        for p in range(n_particles):
            alive, total = 1.0, 0.0
            for t in range(n_times - 1):
                transition = (states[e, p, t], context, actions[t], states[e, p, t + 1])
                total += discount**t * alive * reward(*transition).item()
                ended = term_prob[e, p, t] if termination is None else termination(*transition)
                alive *= 1.0 - float(ended)
            returns.append(total)
    return torch.tensor(returns).mean().item()
