"""The same plan by pytorch-mppi. Importing this needs it."""

import torch
from einops import rearrange
from jaxtyping import Float
from pytorch_mppi import MPPI
from torch import Tensor

from experiments.benchmark_plain import PlainEnsemble, quadratic_cost
from experiments.benchmark_sizes import Planning
from experiments.measuring import Call


def pytorch_mppi_plan(planning: Planning, device: torch.device, std: float) -> Call:
    """One command, refined as often as we iterate, with an ensemble as its dynamics.

    The library has no ensembles, but rolls out several samples of each plan, one behind the other: the first P of
    them are the particles of the first member, and so on (TS∞).
    """
    ensemble = PlainEnsemble(planning).to(device)

    def dynamics(state: Float[Tensor, "R S"], action: Float[Tensor, "R A"]) -> Float[Tensor, "R S"]:
        rows = (rearrange(x, "(e r) f -> e r f", e=planning.n_models) for x in (state, action))
        return rearrange(ensemble(*rows), "e r s -> (e r) s")

    bound = torch.full((planning.n_actions,), planning.max_action, device=device)
    controller = MPPI(
        dynamics,
        lambda state, action: quadratic_cost(state),
        planning.n_states,
        noise_sigma=std**2 * torch.eye(planning.n_actions, device=device),
        num_samples=planning.n_candidates,
        horizon=planning.horizon,
        device=device,
        u_min=-bound,
        u_max=bound,
        rollout_samples=planning.n_models * planning.n_particles,
    )
    state = torch.zeros(planning.n_states, device=device)

    @torch.no_grad()
    def plan() -> None:
        for i in range(planning.n_iterations):
            controller.command(state, shift_nominal_trajectory=i == 0)

    return plan
