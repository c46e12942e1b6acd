"""A fully connected net that foretells one number, and how far it may be off."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layeredrl.nets.mlp import mlp

# Of the log standard deviation, in units of the targets' own (Chua et al. 2018: log variance in −10 … 0.5).
MIN_LOG_STD, MAX_LOG_STD = -5.0, 0.25


class GaussianMLP(nn.Module):
    """Features in, mean and standard deviation of a number out, in standardised units.

    Args:
        n_inputs: features.
        hidden_sizes: widths of the hidden layers.
        nonlinearity: makes the activation behind each hidden layer.
    """

    def __init__(self, n_inputs: int, hidden_sizes: Sequence[int], nonlinearity: Callable[[], nn.Module]):
        super().__init__()
        # One sequence, head included: members can run all of it in turn.
        self.net = mlp(n_inputs, hidden_sizes, nonlinearity).append(nn.Linear((n_inputs, *hidden_sizes)[-1], 2))

    def forward(self, x: Float[Tensor, "*batch F"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        mean, raw_std = self.net(x).unbind(dim=-1)
        return mean, bounded_std(raw_std, MIN_LOG_STD, MAX_LOG_STD)


def bounded_std(raw: Float[Tensor, "*shape"], min_log_std: float, max_log_std: float) -> Float[Tensor, "*shape"]:
    """What a net says of a log standard deviation, within soft bounds, as a standard deviation.

    Bounded from above and then from below by softplus, so that the gradient doesn't vanish where the bounds are
    reached (Chua et al. 2018, appendix A.1). That the upper one is exceeded by log(1 + exp(min − max)) at most, and
    that all of it is no more than a sigmoid, follows from exp(low + softplus(u)) = exp(low) (1 + exp(u)) with
    u = high − low − softplus(high − raw), and from exp(−softplus(high − raw)) = sigmoid(raw − high).
    """
    share = (raw - max_log_std).sigmoid_()
    low = share.new_full((), math.exp(min_log_std))
    return torch.add(low, share, alpha=math.exp(max_log_std))
