"""What the members of an ensemble learn from, and how well they have learned."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.models.members import Members
from layeredrl.types import Batch


class MemberScores(NamedTuple):
    """How well each member explains a batch: the next states, or the rewards, with S = 1."""

    loss: Float[Tensor, " E"]  # in units of the targets, termination included: what training minimises (β = 0)
    nll: Float[Tensor, " E"]  # of the next state, in nats, in state units
    mse: Float[Tensor, "E S"]  # of the mean, per dimension, in squared state units


def member_losses(members: Members, batch: Batch, *, weighted: bool, beta_nll: float = 0.0) -> Float[Tensor, " E"]:
    """Mean over transitions of −log-likelihood + binary cross-entropy of termination, for each member.

    Args:
        members: what explains the transitions.
        batch: a set `(E, B, …)` for each member. Transitions masked out count neither above nor below the fraction
            bar.
        weighted: whether weights multiply the losses.
        beta_nll: β of the likelihood, see `Members.explain`.
    """
    nll, termination_loss, _ = members.explain(batch, beta_nll=beta_nll)
    losses = nll + termination_loss
    if weighted:
        if batch.weight is None:
            raise ValueError("batch.weight: got None, expected weights because of weighted_loss=True")
        losses = losses * batch.weight
    return masked_mean(losses, batch.mask)


def member_scores(members: Members, batch: Batch) -> MemberScores:
    """How well each member explains its transitions `(E, B, …)`, which all count alike."""
    nll, termination_loss, error = members.explain(batch)
    scale = members.targets.scale
    return MemberScores(
        loss=(nll + termination_loss).mean(dim=1),
        nll=nll.mean(dim=1) + scale.log().sum(),
        mse=(error * scale).square().mean(dim=1),
    )


def masked_mean(losses: Float[Tensor, "E B"], mask: Bool[Tensor, "E B"] | None) -> Float[Tensor, " E"]:
    """Mean over the transitions that take part; 0 for a member that has none."""
    if mask is None:
        return losses.mean(dim=1)
    return torch.where(mask, losses, 0.0).sum(dim=1) / mask.sum(dim=1).clamp_min(1)


def share_out(batch: Batch, n_models: int, *, partition: bool) -> Batch:
    """A set of transitions `(E, B, …)` for each member.

    Args:
        batch: such sets already; or transitions `(B, …)` for everyone.
        n_models: number of members.
        partition: give member `e` only every E-th of the transitions for everyone, from the e-th on.
    """
    if len(batch.shape) == 2:
        if len(batch) != n_models:
            raise ValueError(f"batch: got {len(batch)} sets of transitions, expected {n_models}, one a member")
        return batch
    if not partition:
        return for_everyone(batch, n_models)
    # Pad to a multiple of E with copies that are masked out.
    index = torch.arange(math.ceil(len(batch) / n_models) * n_models, device=batch.state.device)
    padded = batch[index.clamp_max(len(batch) - 1)]
    mask = index < len(batch)
    padded = replace(padded, mask=mask if padded.mask is None else mask & padded.mask)
    return padded.map(lambda value: rearrange(value, "(b e) ... -> e b ...", e=n_models))


def for_everyone(batch: Batch, n_models: int) -> Batch:
    """The same transitions for each member, without a copy."""
    return batch.map(lambda value: value.expand(n_models, *value.shape))
