"""What a user would write in plain PyTorch: a loop over member networks, and an ensemble of batched products."""

import itertools
import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from experiments.benchmark_sizes import Dynamics
from layeredrl.types import Batch

MIN_LOG_STD, MAX_LOG_STD = -5.0, 0.25


class PlainMember(nn.Module):
    """One member: the layers of `ProbFCDynamics`, and nothing else."""

    def __init__(self, dynamics: Dynamics):
        super().__init__()
        self.n_modes, self.n_states = dynamics.n_modes, dynamics.n_states
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise((dynamics.n_inputs, *dynamics.hidden_sizes)):
            layers += [nn.Linear(n_in, n_out), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(dynamics.width, dynamics.n_outputs))

    def forward(
        self, state: Float[Tensor, "B S"], action: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, "B M S"], Float[Tensor, "B M S"], Float[Tensor, "B M"], Float[Tensor, " B"]]:
        """Mean and standard deviation of each mode's step, log weights, and the logit of termination."""
        outputs = self.net(torch.cat([state, action], dim=-1))
        n = self.n_modes * self.n_states
        mean, log_std, logits, end = outputs.split([n, n, self.n_modes, 1], dim=-1)
        shape = (len(state), self.n_modes, self.n_states)
        std = log_std.clamp(MIN_LOG_STD, MAX_LOG_STD).exp()
        return mean.view(shape), std.view(shape), logits.log_softmax(dim=-1), end.squeeze(-1)

    def sample(self, state: Float[Tensor, "B S"], action: Float[Tensor, "B A"]) -> Float[Tensor, "B S"]:
        """Next states, drawn from the mixture: the mode, then the Gaussian."""
        mean, std, log_weights, _ = self(state, action)
        if self.n_modes == 1:
            mean, std = mean[:, 0], std[:, 0]
        else:
            mode = torch.multinomial(log_weights.exp(), 1).expand(-1, self.n_states)[:, None]
            mean, std = mean.gather(1, mode).squeeze(1), std.gather(1, mode).squeeze(1)
        return state + mean + std * torch.randn_like(mean)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """−log-likelihood of the step, and binary cross-entropy of termination."""
        mean, std, log_weights, end = self(batch.state, batch.action)
        deviation = ((batch.next_state - batch.state)[:, None] - mean) / std
        log_density = -(0.5 * deviation.square() + std.log() + 0.5 * math.log(2 * math.pi)).sum(dim=-1)
        log_likelihood = (log_weights + log_density).logsumexp(dim=-1)
        ends = nn.functional.binary_cross_entropy_with_logits(end, batch.terminated.float())
        return ends - log_likelihood.mean()


def plain_members(dynamics: Dynamics, device: torch.device) -> list[PlainMember]:
    return [PlainMember(dynamics).to(device) for _ in range(dynamics.n_models)]


class PlainEnsemble(nn.Module):
    """All members at once by batched products, for planners that bring no ensemble of their own."""

    def __init__(self, dynamics: Dynamics):
        super().__init__()
        sizes = itertools.pairwise((dynamics.n_inputs, *dynamics.hidden_sizes, 2 * dynamics.n_states))
        weights = [torch.randn(dynamics.n_models, n_in, n_out) / math.sqrt(n_in) for n_in, n_out in sizes]
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(torch.zeros(len(w), 1, w.shape[-1]) for w in weights)

    def forward(self, state: Float[Tensor, "E R S"], action: Float[Tensor, "E R A"]) -> Float[Tensor, "E R S"]:
        """Next states, drawn from a Gaussian, of the rows that each member moves."""
        *hidden, (head, head_bias) = zip(self.weights, self.biases, strict=True)
        x = torch.cat([state, action], dim=-1)
        for weight, bias in hidden:
            x = silu(torch.baddbmm(bias, x, weight))
        mean, log_std = torch.baddbmm(head_bias, x, head).chunk(2, dim=-1)
        return state + mean + log_std.clamp(MIN_LOG_STD, MAX_LOG_STD).exp() * torch.randn_like(mean)


def quadratic_cost(next_state: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch"]:
    """What planners are to keep small that bring no task of their own."""
    return next_state.square().sum(dim=-1)


def plain_rollout(
    members: list[PlainMember],
    initial_state: Float[Tensor, "B S"],
    actions: Float[Tensor, "B H A"],
    n_particles: int,
) -> Float[Tensor, "E R H S"]:
    """Each member moves its own particles, one step after the other."""
    start, plans = initial_state.repeat(n_particles, 1), actions.repeat(n_particles, 1, 1)
    paths = []
    for member in members:
        state, path = start, []
        for action in plans.unbind(dim=1):
            state = member.sample(state, action)
            path.append(state)
        paths.append(torch.stack(path, dim=1))
    return torch.stack(paths)


def plain_predict(
    members: list[PlainMember], state: Float[Tensor, "B S"], action: Float[Tensor, "B A"]
) -> tuple[Tensor, ...]:
    """What each member expects: means, standard deviations and weights `(B, E, …)`, and the mean end `(B,)`."""
    steps, stds, log_weights, ends = zip(*(member(state, action) for member in members), strict=True)
    mean = rearrange(state, "b s -> b 1 1 s") + torch.stack(steps, dim=1)
    end = torch.stack(ends).sigmoid().mean(dim=0)
    return mean, torch.stack(stds, dim=1), torch.stack(log_weights, dim=1).exp(), end
