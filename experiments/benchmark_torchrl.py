"""The same plan by torchrl. Importing this needs it."""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import ModelBasedEnvBase
from torchrl.modules import CEMPlanner, WorldModelWrapper

from experiments.benchmark_plain import PlainEnsemble, quadratic_cost
from experiments.benchmark_sizes import Planning
from experiments.measuring import Call


class _Particles(nn.Module):
    """Moves the particles of every candidate, `(N, E·P, S)`, each by its own member (TS∞)."""

    def __init__(self, planning: Planning):
        super().__init__()
        self.ensemble = PlainEnsemble(planning)
        self.n_models, self.n_particles = planning.n_models, planning.n_particles

    def forward(self, particles: Float[Tensor, "N K S"], action: Float[Tensor, "N A"]) -> Float[Tensor, "N K S"]:
        state = rearrange(particles, "n (e p) s -> e (n p) s", e=self.n_models)
        actions = repeat(action, "n a -> e (n p) a", e=self.n_models, p=self.n_particles)
        return rearrange(self.ensemble(state, actions), "e (n p) s -> n (e p) s", p=self.n_particles)


class _Reward(nn.Module):
    def forward(self, particles: Float[Tensor, "N K S"]) -> Float[Tensor, "N 1"]:
        return -quadratic_cost(particles).mean(dim=-1, keepdim=True)


class _ParticleEnv(ModelBasedEnvBase):
    """An environment whose state is all particles of a candidate."""

    def __init__(self, planning: Planning, device: torch.device):
        world_model = WorldModelWrapper(
            TensorDictModule(_Particles(planning), in_keys=["particles", "action"], out_keys=["particles"]),
            TensorDictModule(_Reward(), in_keys=["particles"], out_keys=["reward"]),
        )
        super().__init__(world_model, device=device)
        self.n_particles = planning.n_models * planning.n_particles
        particles = Unbounded((self.n_particles, planning.n_states), device=device)
        self.observation_spec = Composite(particles=particles, device=device)
        self.state_spec = Composite(particles=particles, device=device)
        self.action_spec = Bounded(-planning.max_action, planning.max_action, (planning.n_actions,), device=device)
        self.reward_spec = Unbounded((1,), device=device)

    def _reset(self, tensordict: TensorDictBase | None, **_: object) -> TensorDictBase:
        """Not called, as the planner brings the states to start from."""
        raise NotImplementedError


def torchrl_plan(planning: Planning, device: torch.device, elite_ratio: float) -> Call:
    planner = CEMPlanner(
        _ParticleEnv(planning, device),
        planning_horizon=planning.horizon,
        optim_steps=planning.n_iterations,
        num_candidates=planning.n_candidates,
        top_k=max(1, round(elite_ratio * planning.n_candidates)),
    )
    n_particles = planning.n_models * planning.n_particles
    start = torch.zeros(n_particles, planning.n_states, device=device)

    @torch.no_grad()
    def plan() -> None:
        planner(TensorDict({"particles": start}, batch_size=[], device=device))

    return plan
