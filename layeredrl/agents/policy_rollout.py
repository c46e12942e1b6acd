"""Closed-loop rollouts: a policy acts in a learned model."""

from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from layeredrl.agents.policy_agent import act_by
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.policies.model import Model
from layeredrl.spaces import feature_size
from layeredrl.types import ModelStep, Trust


@dataclass(frozen=True)
class PolicyRollout:
    """What a policy did in each particle of a model, and where that led.

    Attributes:
        state: of the particles after 0 … H steps (T = H + 1 times).
        action: in each state but the last.
        log_prob: of the actions as drawn, before they were clipped to a Box; zeros, if the policy gives none.
        term_prob: probability that the step ended the episode.
        is_valid: whether a step was trusted, and all before it. Nothing is to be learned from the others: the
            particle stays where it was.
    """

    state: Float[Tensor, "B E P T S"]
    action: Num[Tensor, "B E P H A"]
    log_prob: Float[Tensor, "B E P H"]
    term_prob: Float[Tensor, "B E P H"]
    is_valid: Bool[Tensor, "B E P H"]

    @property
    def n_steps(self) -> Int[Tensor, "B E P"]:
        """How many steps each particle made until it was stopped: H, if it wasn't."""
        return self.is_valid.sum(dim=-1)


def rollout_policy(
    model: ProbabilisticEnsemble,
    initial_state: Float[Tensor, "B S"],
    context: Num[Tensor, "B C"] | None,
    policy: Model,
    horizon: int,
    *,
    trust: Trust | None = None,
    generator: torch.Generator | None = None,
) -> PolicyRollout:
    """Roll the model's elites with a policy that sees every particle's state. Gradients flow to the policy.

    A particle is stopped before its first step that isn't trusted. Ends of episodes don't stop it: they are in
    `term_prob`.

    Args:
        model: with action and state spaces that fit the policy's.
        initial_state, context: one row per start.
        policy: acts on `inputs["observations"]`, and on `inputs["context"]` if there is one; in evaluation mode,
            if it is recurrent.
        horizon: number of steps.
        trust: in the model's steps: `model.epistemic_limit`, once `model.fit_epistemic_limit(held_out)` was called;
            a step then takes E times as long. None: in all.
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
    verdicts: list[Tensor] = []

    def act(state: Float[Tensor, "E R S"], t: int) -> Num[Tensor, "E R A"]:
        nonlocal memory
        rows = rearrange(state, "e r s -> (e r) s")
        action, outputs = act_by(policy, rows, contexts, memory, generator=generator)
        memory = outputs.get("rnn")
        log_prob = outputs["log_prob"].sum(dim=-1) if "log_prob" in outputs else torch.zeros_like(rows[:, 0])
        actions.append(action.unflatten(0, (-1, n_rows)))
        log_probs.append(log_prob.unflatten(0, (-1, n_rows)))
        return actions[-1]

    rollout = model.rollout_closed_loop(
        initial_state,
        context,
        act,
        horizon,
        members=members,
        trust=None if trust is None else partial(_remember, trust, verdicts),
        generator=generator,
    )
    unfold = {"p": model.n_particles_per_model}
    return PolicyRollout(
        state=rollout.state,
        action=rearrange(actions, "h e (p b) a -> b e p h a", **unfold),
        log_prob=rearrange(log_probs, "h e (p b) -> b e p h", **unfold),
        term_prob=rollout.term_prob,
        is_valid=_until_first_doubt(verdicts) if verdicts else torch.ones_like(rollout.term_prob, dtype=torch.bool),
    )


def _remember(trust: Trust, verdicts: list[Tensor], step: ModelStep) -> Bool[Tensor, "E P B"]:
    verdicts.append(trust(step))
    return verdicts[-1]


def _until_first_doubt(verdicts: list[Tensor]) -> Bool[Tensor, "B E P H"]:
    return rearrange(verdicts, "h e p b -> b e p h").cummin(dim=-1).values
