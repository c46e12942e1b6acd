"""A fully connected net that foretells one number, and how far it may be off."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

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
        self.trunk = mlp(n_inputs, hidden_sizes, nonlinearity)
        self.head = nn.Linear((n_inputs, *hidden_sizes)[-1], 2)

    def forward(self, x: Float[Tensor, "*batch F"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        mean, log_std = self.head(self.trunk(x)).unbind(dim=-1)
        return mean, soft_clamp(log_std, MIN_LOG_STD, MAX_LOG_STD).exp()


def soft_clamp(x: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, "*shape"]:
    """Soft bounds, so that the gradient doesn't vanish where they are reached (Chua et al. 2018, appendix A.1).

    The upper one is exceeded by log(1 + exp(low − high)) at most.
    """
    x = high - softplus(high - x)
    return low + softplus(x - low)
