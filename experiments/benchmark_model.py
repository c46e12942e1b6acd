"""How long the ensemble takes to roll out and to train."""

from functools import partial

import torch
from gymnasium.spaces import Box
from torch import nn
from torch.distributions import Independent, Normal
from torch.nn.functional import binary_cross_entropy

from experiments.measuring import LargeProduct, Row, forward_flops, medians
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.training.trainer import clip_member_gradients
from layeredrl.types import Batch

N_MODELS, N_PARTICLES, HORIZON, N_STARTS = 5, 4, 30, 400
N_STATES, N_ACTIONS, HIDDEN_SIZES = 18, 6, (200, 200, 200, 200)
TRAIN_BATCH = 256

STATE_SPACE = Box(-float("inf"), float("inf"), (N_STATES,))
ACTION_SPACE = Box(-1.0, 1.0, (N_ACTIONS,))
NET = partial(ProbFCDynamics, hidden_sizes=HIDDEN_SIZES, nonlinearity=nn.SiLU)


def measure_rollout(repeats: int) -> list[Row]:
    """A rollout of many particles, against the same FLOPs as one large matrix product."""
    model = ProbabilisticEnsemble(
        STATE_SPACE, None, ACTION_SPACE, NET, n_models=N_MODELS, n_particles_per_model=N_PARTICLES
    )
    state, actions = torch.randn(N_STARTS, N_STATES), 2 * torch.rand(N_STARTS, HORIZON, N_ACTIONS) - 1
    product = LargeProduct()
    with torch.no_grad():
        ours, product_seconds = medians(repeats, lambda: model.rollout(state, None, actions), product)
    row_flops = forward_flops(N_STATES + N_ACTIONS, HIDDEN_SIZES, 2 * N_STATES + 2)
    bound = product.seconds_for(N_MODELS * N_PARTICLES * N_STARTS * HORIZON * row_flops, product_seconds)
    name = f"rollout E={N_MODELS} P={N_PARTICLES} H={HORIZON} B={N_STARTS}"
    return [Row(name, ours, "the same FLOPs as sgemm", bound)]


def measure_train(repeats: int) -> list[Row]:
    """A training step, against a loop over members in plain PyTorch that does the same work."""
    model = ProbabilisticEnsemble(STATE_SPACE, None, ACTION_SPACE, NET, n_models=N_MODELS)
    optimizer = torch.optim.AdamW(model.get_parameters(), fused=True)
    batch = Batch(
        state=torch.randn(N_MODELS, TRAIN_BATCH, N_STATES),
        context=None,
        action=torch.rand(N_MODELS, TRAIN_BATCH, N_ACTIONS),
        next_state=torch.randn(N_MODELS, TRAIN_BATCH, N_STATES),
        terminated=torch.zeros(N_MODELS, TRAIN_BATCH, dtype=torch.bool),
    )

    def ours() -> None:
        optimizer.zero_grad()
        model.get_member_losses(batch).sum().backward()
        clip_member_gradients(model.get_parameters(), 10.0)
        optimizer.step()

    nets = [NET(STATE_SPACE, None, ACTION_SPACE) for _ in range(N_MODELS)]
    optimizers = [torch.optim.AdamW(net.parameters()) for net in nets]

    def loop() -> None:
        for e, (net, own) in enumerate(zip(nets, optimizers, strict=True)):
            (mean, std), _, term_prob = net(batch.state[e], None, batch.action[e])
            law = Independent(Normal(mean.squeeze(1), std.squeeze(1), validate_args=False), 1)
            nll = -law.log_prob(batch.next_state[e] - batch.state[e])
            loss = (nll + binary_cross_entropy(term_prob, batch.terminated[e].float(), reduction="none")).mean()
            own.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            own.step()

    seconds = medians(10 * repeats, ours, loop)
    return [Row(f"training step E={N_MODELS} B={TRAIN_BATCH}", seconds[0], "plain loop over members", seconds[1])]
