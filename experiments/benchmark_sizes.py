"""The sizes that the benchmark measures at, all in one place."""

from dataclasses import dataclass, field
from functools import partial

import torch
from gymnasium.spaces import Box
from torch import nn

from experiments.measuring import forward_flops
from layeredrl.agents.mpc_agent import MPCAgent
from layeredrl.envs.tasks import TASKS, Task
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.native.library import kernels_work
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.planner import Planner
from layeredrl.planners.search_space import Sampling


def can_be_fused(device: torch.device | str) -> bool:
    """Whether networks become one operation there. Graphs of a GPU would hide what is counted."""
    return torch.device(device).type == "cpu" and kernels_work()


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """The size of an ensemble of fully connected networks with SiLU, and of what it foretells."""

    n_models: int = 5
    n_particles: int = 4
    """Per member."""
    n_modes: int = 1
    n_states: int
    n_actions: int
    max_action: float = 1.0
    width: int = 200
    n_layers: int = 4

    @property
    def state_space(self) -> Box:
        return Box(-float("inf"), float("inf"), (self.n_states,))

    @property
    def action_space(self) -> Box:
        return Box(-self.max_action, self.max_action, (self.n_actions,))

    @property
    def n_inputs(self) -> int:
        return self.n_states + self.n_actions

    @property
    def n_outputs(self) -> int:
        """Mean, standard deviation and weight of each mode, and the probability of termination."""
        return self.n_modes * (2 * self.n_states + 1) + 1

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        return (self.width,) * self.n_layers

    @property
    def step_flops(self) -> int:
        """Floating-point operations of one model step: one row through one network."""
        return forward_flops(self.n_inputs, self.hidden_sizes, self.n_outputs)

    def model(self, device: torch.device | str = "cpu", *, fused: bool = True) -> ProbabilisticEnsemble:
        """An ensemble that has learned nothing, which takes no less time.

        Args:
            device: where it lies.
            fused: whether to run its layers as one operation, where that is possible.
        """
        return ProbabilisticEnsemble(
            self.state_space,
            None,
            self.action_space,
            partial(ProbFCDynamics, hidden_sizes=self.hidden_sizes, nonlinearity=nn.SiLU),
            n_models=self.n_models,
            n_modes=self.n_modes,
            n_particles_per_model=self.n_particles,
            device=device,
            compile=fused and can_be_fused(device),
        )


@dataclass(frozen=True, kw_only=True)
class Planning(Dynamics):
    """The size of a planning problem, and what is planned for."""

    env_id: str
    """Whose reward and termination count."""
    n_envs: int = 1
    n_candidates: int
    horizon: int
    n_iterations: int
    sampling: Sampling = "clipped"

    @property
    def candidate_steps(self) -> int:
        """Model steps that one candidate takes."""
        return self.n_models * self.n_particles * self.horizon

    def agent(
        self,
        device: torch.device | str = "cpu",
        planner: Planner | None = None,
        task: Task | None = None,
        *,
        fused: bool = True,
    ) -> MPCAgent:
        """Plans by CEM for what counts in the environment, unless told otherwise."""
        task = task or TASKS[self.env_id]
        cem = CEM(
            self.action_space,
            self.horizon,
            n_candidates=self.n_candidates,
            n_iterations=self.n_iterations,
            sampling=self.sampling,
            device=device,
        )
        return MPCAgent(
            planner or cem, ModelObjective(self.model(device, fused=fused), task.reward, task.termination)
        )


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured at which size."""

    dynamics: Dynamics = Dynamics(n_states=18, n_actions=6)
    """Of `rollout`, `predict`, `train` and `fit`."""
    n_modes: int = 5
    """Of the mixture, in the second half of `rollout`."""
    horizon: int = 30
    n_starts: int = 400
    """States that a rollout starts from."""
    n_rows: int = 16
    """Transitions that `predict` is asked about."""
    n_predictions: int = 60
    """Per turn, as they are quick; likewise the numbers of training and policy steps below."""
    batch_size: int = 256
    """Transitions per member and training step."""
    n_train_steps: int = 40
    """As many as tell of a fit, in which one follows the other: the first few after something else take longer."""
    n_policy_steps: int = 30
    n_transitions: int = 20_000
    n_epochs: int = 25
    """Of `fit`."""
    # Four state coordinates and one action, as a pole on a cart has; draws are truncated, as mbrl-lib's are.
    pets: Planning = Planning(
        env_id="InvertedPendulum-v5",
        n_states=4,
        n_actions=1,
        max_action=3.0,
        n_candidates=350,
        horizon=15,
        n_iterations=5,
        sampling="truncated",
    )
    """Of `plan`."""
    small: Planning = Planning(
        env_id="Pendulum-v1",
        n_states=3,
        n_actions=1,
        max_action=2.0,
        n_particles=1,
        n_candidates=32,
        horizon=10,
        n_iterations=4,
        width=128,
        n_layers=3,
    )
    """Of `envs`."""
    n_envs: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Of `envs`."""
    scaled: Planning = Planning(
        env_id="Pendulum-v1",
        n_states=3,
        n_actions=1,
        max_action=2.0,
        n_models=4,
        n_candidates=128,
        horizon=8,
        n_iterations=2,
        width=128,
        n_layers=3,
    )
    """Around which `scaling` varies."""
    sweeps: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "n_models": (1, 2, 4, 8, 16),
            "n_particles": (1, 2, 4, 8, 16),
            "n_candidates": (32, 64, 128, 256, 512),
            "horizon": (2, 4, 8, 16, 32),
            "n_envs": (1, 2, 4, 8, 16),
            "width": (32, 64, 128, 256, 512),
        }
    )
    """What `scaling` varies, one at a time: fields of `scaled`."""


SIZES = Sizes()
