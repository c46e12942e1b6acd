"""What is written in plain PyTorch is right: a fast rival that does something else would be none."""

from dataclasses import replace

import torch
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal
from torch.nn.functional import silu

from experiments.benchmark_plain import PlainEnsemble, PlainMember, plain_members, plain_predict, plain_rollout
from layeredrl.types import Batch
from tests.experiments.tiny_benchmark import TINY

DYNAMICS = replace(TINY.dynamics, n_modes=2)
S, A = DYNAMICS.n_states, DYNAMICS.n_actions


def law(member, state, action):
    mean, std, log_weights, end = member(state, action)
    mixture = MixtureSameFamily(Categorical(logits=log_weights), Independent(Normal(mean, std), 1))
    return mixture, Bernoulli(logits=end)


def test_the_loss_is_the_negative_log_likelihood():
    member = PlainMember(DYNAMICS)
    batch = Batch(torch.randn(9, S), None, torch.rand(9, A), torch.randn(9, S), torch.arange(9) < 3)
    step, end = law(member, batch.state, batch.action)
    log_likelihood = step.log_prob(batch.next_state - batch.state) + end.log_prob(batch.terminated.float())
    torch.testing.assert_close(member.loss(batch), -log_likelihood.mean())


@torch.no_grad()
def test_samples_follow_the_mixture():
    member = PlainMember(DYNAMICS)
    member.net[-1].bias[:S] += 3  # the mean of the first mode
    member.net[-1].bias[4 * S] += 1  # and its weight
    state, action = torch.randn(1, S).expand(20_000, -1), torch.rand(1, A).expand(20_000, -1)
    step, _ = law(member, state[:1], action[:1])
    moved = member.sample(state, action) - state
    torch.testing.assert_close(moved.mean(dim=0), step.mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(moved.var(dim=0), step.variance[0], atol=0.1, rtol=0.05)


@torch.no_grad()
def test_a_rollout_follows_every_action_with_every_particle():
    members = plain_members(DYNAMICS, torch.device("cpu"))
    for member in members:
        member.sample = lambda state, action: state + action.sum(dim=-1, keepdim=True)
    state, actions = torch.randn(4, S), torch.rand(4, 3, A)
    paths = plain_rollout(members, state, actions, n_particles=2)
    expected = state[:, None] + actions.sum(dim=-1, keepdim=True).cumsum(dim=1)
    torch.testing.assert_close(paths, expected.repeat(2, 1, 1).expand(len(members), -1, -1, -1))


@torch.no_grad()
def test_predictions_are_those_of_each_member():
    members = plain_members(DYNAMICS, torch.device("cpu"))
    state, action = torch.randn(4, S), torch.rand(4, A)
    mean, std, weights, end = plain_predict(members, state, action)
    laws = [law(member, state, action) for member in members]
    for e, (step, _) in enumerate(laws):
        components = step.component_distribution
        torch.testing.assert_close(mean[:, e], state[:, None] + components.mean)
        torch.testing.assert_close(std[:, e], components.stddev)
        torch.testing.assert_close(weights[:, e], step.mixture_distribution.probs)
    torch.testing.assert_close(end, torch.stack([own.probs for _, own in laws]).mean(dim=0))


@torch.no_grad()
def test_batched_products_are_those_of_each_member():
    ensemble = PlainEnsemble(DYNAMICS)
    state, action = torch.randn(DYNAMICS.n_models, 5, S), torch.rand(DYNAMICS.n_models, 5, A)
    torch.manual_seed(1)
    moved = ensemble(state, action)
    torch.manual_seed(1)
    noise = torch.randn(DYNAMICS.n_models, 5, S)
    for e in range(DYNAMICS.n_models):
        x = torch.cat([state[e], action[e]], dim=-1)
        for weight, bias in zip(ensemble.weights[:-1], ensemble.biases[:-1], strict=True):
            x = silu(x @ weight[e] + bias[e])
        mean, log_std = (x @ ensemble.weights[-1][e] + ensemble.biases[-1][e]).split(S, dim=-1)
        expected = state[e] + mean + log_std.clamp(-5.0, 0.25).exp() * noise[e]
        torch.testing.assert_close(moved[e], expected)
