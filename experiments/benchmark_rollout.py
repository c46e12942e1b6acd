"""How long the ensemble takes to look ahead: many particles for many steps, and few rows for one."""

from dataclasses import replace
from functools import partial

import torch

from experiments.benchmark_contest import LOOP, UNFUSED, Bench, compare
from experiments.benchmark_peers import MBRL
from experiments.benchmark_plain import plain_members, plain_predict, plain_rollout
from experiments.benchmark_sizes import Dynamics, can_be_fused
from experiments.measuring import Call, Row


def measure_rollout(bench: Bench) -> list[Row]:
    """A rollout of many particles, of Gaussians and of mixtures, which mbrl-lib doesn't have."""
    gaussian = bench.sizes.dynamics
    return [
        *_rollout_rows(bench, gaussian, with_mbrl=MBRL in bench.peers),
        *_rollout_rows(bench, replace(gaussian, n_modes=bench.sizes.n_modes), with_mbrl=False),
    ]


def _rollout_rows(bench: Bench, dynamics: Dynamics, *, with_mbrl: bool) -> list[Row]:
    sizes, device = bench.sizes, bench.device
    state = torch.randn(sizes.n_starts, dynamics.n_states, device=device)
    actions = 2 * torch.rand(sizes.n_starts, sizes.horizon, dynamics.n_actions, device=device) - 1
    models = [dynamics.model(device, fused=fused) for fused in (True, False)]
    members = plain_members(dynamics, device)
    ours, unfused = (partial(torch.no_grad()(model.rollout), state, None, actions) for model in models)

    @torch.no_grad()
    def loop() -> None:
        plain_rollout(members, state, actions, dynamics.n_particles)

    rivals: dict[str, Call] = {UNFUSED: unfused} if can_be_fused(device) else {}
    rivals[LOOP] = loop
    if with_mbrl:
        from experiments.benchmark_mbrl import mbrl_rollout

        rivals[MBRL.name] = mbrl_rollout(dynamics, state, actions)
    name = (
        f"rollout, E={dynamics.n_models} P={dynamics.n_particles} M={dynamics.n_modes} H={sizes.horizon} "
        f"B={sizes.n_starts}"
    )
    return compare(bench, name, dynamics, ours, rivals, flops_per_step=dynamics.step_flops)


def measure_predict(bench: Bench) -> list[Row]:
    """One step from few rows, where what surrounds the products counts more than they do."""
    sizes, dynamics, device = bench.sizes, bench.sizes.dynamics, bench.device
    state = torch.randn(sizes.n_rows, dynamics.n_states, device=device)
    action = 2 * torch.rand(sizes.n_rows, dynamics.n_actions, device=device) - 1
    model, members = dynamics.model(device), plain_members(dynamics, device)

    @torch.no_grad()
    def ours() -> None:
        model.predict(state, None, action)

    @torch.no_grad()
    def loop() -> None:
        plain_predict(members, state, action)

    name = f"predict, E={dynamics.n_models} B={sizes.n_rows}"
    return compare(bench, name, dynamics, ours, {LOOP: loop}, times=sizes.n_predictions)
