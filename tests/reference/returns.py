"""Discounted returns of a rollout, one particle and one step at a time."""

import torch


def expected_return(rollout, row, context, actions, reward, *, termination=None, discount=1.0) -> float:
    """Mean over the particles of one row of a rollout of Σ γᵗ · P(alive at t) · rewardₜ.

    `context (C,)` and `actions (H, A)` are those of the row. Without `termination`, the rollout's probability of
    termination counts.
    """
    _, n_members, n_particles, n_times, _ = rollout.state.shape
    returns = []
    for e in range(n_members):
        for p in range(n_particles):
            alive, total = 1.0, 0.0
            for t in range(n_times - 1):
                state, next_state = rollout.state[row, e, p, t], rollout.state[row, e, p, t + 1]
                transition = (state, context, actions[t], next_state)
                total += discount**t * alive * float(reward(*transition))
                ended = rollout.term_prob[row, e, p, t] if termination is None else termination(*transition)
                alive *= 1.0 - float(ended)
            returns.append(total)
    return torch.tensor(returns).mean().item()
