"""Closed-loop rollouts: a policy acts in a learned model."""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.agents.policy_agent import act_by
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.policies.model import Model
from layeredrl.spaces import feature_size


@dataclass(frozen=True)
class PolicyRollout:
    """What a policy did in each particle of a model, and where that led.

    Attributes:
        state: of the particles after 0 … H steps (T = H + 1 times).
        action: in each state but the last.
        log_prob: of the actions as drawn, before they were clipped to a Box; zeros, if the policy gives none.
        term_prob: probability that the step ended the episode.
    """

    state: Float[Tensor, "B E P T S"]
    action: Num[Tensor, "B E P H A"]
    log_prob: Float[Tensor, "B E P H"]
    term_prob: Float[Tensor, "B E P H"]


def rollout_policy(
    model: ProbabilisticEnsemble,
    initial_state: Float[Tensor, "B S"],
    context: Num[Tensor, "B C"] | None,
    policy: Model,
    horizon: int,
    *,
    generator: torch.Generator | None = None,
) -> PolicyRollout:
    """Roll the model's elites with a policy that sees every particle's state. Gradients flow to the policy.

    Args:
        model: with action and state spaces that fit the policy's.
        initial_state, context: one row per start.
        policy: acts on `inputs["observations"]`, and on `inputs["context"]` if there is one; in evaluation mode,
            if it is recurrent.
        horizon: number of steps.
        generator: source of all noise, the policy's and the model's.

    Raises:
        TypeError, ValueError: a state or context is wrong, or the sizes of model and policy differ.
    """
    sizes = {
        "num_observations": (policy.num_observations, feature_size(model.state_space)),
        "num_actions": (policy.num_actions, feature_size(model.action_space)),
    }
    for name, (got, expected) in sizes.items():
        if got != expected:
            raise ValueError(f"policy.{name}: got {got}, expected the model's {expected}")
    members = model.elites
    n_rows = model.n_particles_per_model * len(initial_state)
    contexts = None
    if context is not None:
        contexts = repeat(context, "b c -> (e p b) c", e=len(members), p=model.n_particles_per_model)
    memory: list[Tensor] | None = None
    actions, log_probs = [], []

    def act(state: Float[Tensor, "E R S"], t: int) -> Num[Tensor, "E R A"]:
        nonlocal memory
        rows = rearrange(state, "e r s -> (e r) s")
        action, outputs = act_by(policy, rows, contexts, memory, generator=generator)
        memory = outputs.get("rnn")
        log_prob = outputs["log_prob"].sum(dim=-1) if "log_prob" in outputs else torch.zeros_like(rows[:, 0])
        actions.append(action.unflatten(0, (-1, n_rows)))
        log_probs.append(log_prob.unflatten(0, (-1, n_rows)))
        return actions[-1]

    rollout = model.rollout_closed_loop(initial_state, context, act, horizon, members=members, generator=generator)
    unfold = {"p": model.n_particles_per_model}
    return PolicyRollout(
        state=rollout.state,
        action=rearrange(actions, "h e (p b) a -> b e p h a", **unfold),
        log_prob=rearrange(log_probs, "h e (p b) -> b e p h", **unfold),
        term_prob=rollout.term_prob,
    )
