"""A fully connected net that foretells one number, and how far it may be off."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from layeredrl.nets.bounded_features import BoundedFeatures, std_bound
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
        head = nn.Linear((n_inputs, *hidden_sizes)[-1], 2)
        bounds = BoundedFeatures([(1, None), (1, std_bound(MIN_LOG_STD, MAX_LOG_STD))])
        # One sequence, head included: members can run all of it as one operation.
        self.net = mlp(n_inputs, hidden_sizes, nonlinearity).extend([head, bounds])

    def forward(self, x: Float[Tensor, "*batch F"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        mean, std = self.net(x).unbind(dim=-1)
        return mean, std
