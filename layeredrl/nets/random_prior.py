"""Random functions that are never trained."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from layeredrl.nets.mlp import mlp

# Inputs that outputs are standardised over.
N_PROBES = 512


@torch.no_grad()
def random_prior(
    n_inputs: int, n_outputs: int, hidden_sizes: Sequence[int], nonlinearity: Callable[[], nn.Module]
) -> nn.Sequential:
    """A frozen random net, each of whose outputs has mean 0 and variance 1 over standard normal inputs.

    Weights are Glorot's, as in Osband et al. 2018. Larger ones than those that nets are trained from, so that it
    bends within the range of its inputs, yet so mildly that a net can make up for it where there are data.
    """
    head = nn.Linear((n_inputs, *hidden_sizes)[-1], n_outputs)
    net = mlp(n_inputs, hidden_sizes, nonlinearity).append(head)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    std, mean = torch.std_mean(net(torch.randn(N_PROBES, n_inputs)), dim=0)
    std = torch.where(std > 0, std, 1.0)  # a narrow net may be constant
    head.weight /= std.unsqueeze(1)
    head.bias.copy_((head.bias - mean) / std)
    return net.requires_grad_(False)
