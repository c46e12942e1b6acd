"""What the members of an ensemble learn from, and how well they have learned."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import hardtanh

from layeredrl.models.examples import Examples, for_everyone
from layeredrl.models.members import Members
from layeredrl.models.mixture import gaussian_nll, log_weights, mixture_log_prob, mixture_moments
from layeredrl.models.noise_shape import MAX_STANDARD_SCORE
from layeredrl.nets.native.library import kernels_serve
from layeredrl.nets.native.transition_loss import transition_loss


class MemberScores(NamedTuple):
    """How well each member explains a batch: the next states, or the rewards, with S = 1."""

    loss: Float[Tensor, " E"]  # in units of the targets, termination included: what training minimises (β = 0)
    nll: Float[Tensor, " E"]  # of the next state, in nats, in state units
    mse: Float[Tensor, "E S"]  # of the mean, per dimension, in squared state units


def member_losses(
    members: Members, examples: Examples, *, weighted: bool, beta_nll: float = 0.0
) -> Float[Tensor, " E"]:
    """Mean over transitions of −log-likelihood + binary cross-entropy of termination, for each member.

    Args:
        members: what explains the transitions.
        examples: a set `(E, B)` for each member. Those masked out count neither above nor below the fraction bar.
        weighted: whether weights multiply the losses.
        beta_nll: β of the likelihood: each dimension's NLL counts σ^2β times, as a constant (Seitzer et al. 2022).
    """
    nll, termination_loss, _ = _explain(members, examples, beta_nll=beta_nll)
    losses = nll + termination_loss
    if weighted:
        if examples.weight is None:
            raise ValueError("batch.weight: got None, expected weights because of weighted_loss=True")
        losses = losses * examples.weight
    return masked_mean(losses, examples.mask)


def member_scores(members: Members, examples: Examples) -> MemberScores:
    """How well each member explains the examples `(B, …)`, which all count alike."""
    examples = for_everyone(examples, members.nets.n_members)
    nll, termination_loss, mean = _explain(members, examples)
    error = mean - examples.target
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


class _Explanation(NamedTuple):
    nll: Float[Tensor, "E B"]  # −log-likelihood of the target
    termination_loss: Float[Tensor, "E B"]  # binary cross-entropy
    mean: Float[Tensor, "E B S"]  # that was expected of the target


def _explain(members: Members, examples: Examples, *, beta_nll: float = 0.0) -> _Explanation:
    """How each member explains each of its examples, in the units of the targets."""
    inputs, target, terminated, *_ = examples
    assert terminated is not None
    gaussians = members.fused_gaussians
    if gaussians is not None and beta_nll == 0 and kernels_serve(inputs, target):
        outputs = gaussians(inputs)
        losses = transition_loss(outputs, target, terminated, MAX_STANDARD_SCORE)
        return _Explanation(*losses, outputs.narrow(-1, 0, target.shape[-1]))
    (mean, std), weights, term_prob = members.say(inputs)
    termination_loss = _termination_loss(term_prob, terminated)
    if std.shape[-2] > 1:
        nll = -mixture_log_prob(target, mean, std, log_weights(weights))
        return _Explanation(nll, termination_loss, mixture_moments(mean, std, weights)[0])
    mean, std = mean.squeeze(-2), std.squeeze(-2)
    # From the mean on, so that rows stand upright wherever the mean's do.
    per_dim = gaussian_nll(mean - target, std)
    nll = (std.detach() ** (2 * beta_nll) * per_dim if beta_nll > 0 else per_dim).sum(dim=-1)
    return _Explanation(nll, termination_loss, mean)


def _termination_loss(
    term_prob: Float[Tensor, "*batch"], terminated: Bool[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Binary cross-entropy; NaN for a member that diverged, where torch's own would raise for all members."""
    happened = torch.where(terminated, term_prob, 1 - term_prob)
    return -hardtanh(happened, torch.finfo(happened.dtype).tiny, 1.0).log()
