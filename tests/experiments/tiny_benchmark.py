"""The benchmark at sizes that take no time."""

from dataclasses import replace

import torch

from experiments.benchmark_contest import Bench
from experiments.benchmark_peers import Peer
from experiments.benchmark_sizes import SIZES

TINY = replace(
    SIZES,
    dynamics=replace(SIZES.dynamics, n_models=3, n_particles=2, width=8, n_layers=2),
    n_modes=2,
    horizon=3,
    n_starts=7,
    n_predictions=2,
    n_train_steps=2,
    n_policy_steps=2,
    batch_size=256,
    n_transitions=200,  # one batch on both sides
    n_epochs=2,
    pets=replace(
        SIZES.pets,
        n_models=3,
        n_particles=2,
        n_candidates=20,
        horizon=3,
        n_iterations=2,
        width=8,
        n_layers=2,
    ),
    small=replace(SIZES.small, n_candidates=8, horizon=2, n_iterations=1, width=8),
    n_envs=(1, 4),
    scaled=replace(SIZES.scaled, n_candidates=8, horizon=2, n_iterations=1, width=8),
    sweeps={"n_models": (1, 2), "width": (8, 16)},
)


def tiny_bench(*peers: Peer) -> Bench:
    return Bench(torch.device("cpu"), repeats=1, peers=frozenset(peers), sizes=TINY)
