"""Ensembles whose noise is foretold wrongly, data of known noise, and figures found by drawing samples."""

import torch

from layeredrl.types import Batch
from tests.models.ensembles import draw, make_fixed

DIMS = 3


def student_t(n):
    """With three degrees of freedom and variance 1."""
    return torch.randn(n, DIMS) / (torch.randn(n, DIMS, 3).square().sum(dim=-1)).sqrt()


def laplace(n):
    """Of variance 1."""
    return torch.empty(n, DIMS).exponential_(2**0.5) * (2.0 * torch.randint(2, (n, DIMS)) - 1.0)


def exponential(n):
    """Of mean 0 and variance 1, skewed."""
    return torch.empty(n, DIMS).exponential_() - 1.0


def normal(n):
    return torch.randn(n, DIMS)


def transitions(noise, **more) -> Batch:
    """Steps that are noise and nothing else."""
    state, action = draw_inputs(len(noise))
    return Batch(state, None, action, state + noise, torch.zeros(len(noise), dtype=torch.bool), **more)


def draw_inputs(n):
    return torch.randn(n, DIMS), draw(make_fixed({"offset": 0.0, "std": 1.0}).action_space, n)


def disagreeing(std, offsets=(0.0,), **settings):
    """Members that expect these steps, with this standard deviation."""
    return make_fixed(*({"offset": offset, "std": std} for offset in offsets), **settings)


def calibration_error(model, batch, n_samples=100):
    """Mean |coverage − level| of central intervals over all levels and dimensions, by ranks among samples."""
    inputs = [x.unsqueeze(1).expand(-1, n_samples, -1) for x in (batch.state, batch.action)]
    samples = model.sample(inputs[0], None, inputs[1])
    rank = (samples < batch.next_state.unsqueeze(1)).sum(dim=1)
    pit = (rank + torch.rand(rank.shape)) / (n_samples + 1)
    levels = torch.linspace(0.005, 0.995, 100)
    coverage = ((2 * pit - 1).abs().unsqueeze(-1) <= levels).float().mean(dim=0)
    return (coverage - levels).abs().mean().item()


def nll(model, batch):
    """Mean −log density per transition."""
    return -model.get_log_prob(batch.state, None, batch.action, batch.next_state)[0].mean().item()
