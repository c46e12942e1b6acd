"""The same weights, seed and inputs give what skrl 2.1.1 gives: actions, outputs, entropies and gradients."""

import copy
from typing import Any

import numpy as np
import pytest
import skrl.models.torch as theirs
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from torch import Tensor, nn
from twins import N_OBSERVATIONS, make_twin

import layeredrl.policies as ours

OBSERVATIONS = Box(-5.0, 5.0, (N_OBSERVATIONS,))
ACTIONS = Box(-0.3, 0.2, (3,))
# The first is below and the last above the default bounds of log_std.
LOG_STD = torch.tensor([-21.0, -0.5, 2.5])
REDUCTIONS = ["mean", "sum", "prod", "none"]
FLAGS = [False, True]


def assert_twins_act_alike(
    mixin: str, action_space: Space[Any], taken: Tensor | None, *, compare_entropy: bool = True, **more: Any
) -> None:
    outcomes = []
    for library in (theirs, ours):
        twin = make_twin(getattr(library, mixin), library.Model, OBSERVATIONS, action_space, **more)
        torch.manual_seed(3)
        inputs: dict[str, Any] = {"observations": 3.0 * torch.randn(64, N_OBSERVATIONS)}
        if taken is not None:
            inputs["taken_actions"] = taken
        actions, outputs = twin.act(inputs, role="policy")
        results = {"actions": actions, **outputs, "next noise": torch.rand(1)}
        if compare_entropy and hasattr(twin, "get_entropy"):
            results["entropy"] = twin.get_entropy(role="policy")
        differentiable = [x.sum() for x in results.values() if x.requires_grad]
        gradients = torch.autograd.grad(sum(differentiable), list(twin.parameters()), allow_unused=True)
        results |= {f"gradient {i}": torch.zeros(()) if g is None else g for i, g in enumerate(gradients)}
        outcomes.append(results)
    assert outcomes[0].keys() == outcomes[1].keys()
    for name, expected in outcomes[0].items():
        # Sums over the batch, in gradients, round in another order.
        tolerance = 1e-5 if name.startswith("gradient") else 1e-6
        close = torch.allclose(outcomes[1][name], expected, rtol=tolerance, atol=tolerance, equal_nan=True)
        assert close, f"{name}: {outcomes[1][name]}, expected {expected}"


@pytest.fixture(params=[False, True], ids=["drawn", "taken"])
def taken_box_actions(request: pytest.FixtureRequest) -> Tensor | None:
    return torch.rand(64, 3) - 0.5 if request.param else None


@pytest.mark.parametrize("clip_actions", FLAGS)
def test_deterministic(clip_actions: bool, taken_box_actions: Tensor | None) -> None:
    assert_twins_act_alike("DeterministicMixin", ACTIONS, taken_box_actions, n_outputs=3, clip_actions=clip_actions)


@pytest.mark.parametrize("mixin", ["GaussianMixin", "MultivariateGaussianMixin", "DeterministicMixin"])
def test_bounds_that_differ_by_action(mixin: str, taken_box_actions: Tensor | None) -> None:
    low, high = np.array([-0.1, -np.inf, 0.0]), np.array([0.1, 0.2, np.inf])
    assert_twins_act_alike(
        mixin,
        Box(low, high, dtype=np.float64),
        taken_box_actions,
        n_outputs=3,
        log_std=None if mixin == "DeterministicMixin" else torch.zeros(3),
        clip_actions=True,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("clip_log_std", FLAGS)
@pytest.mark.parametrize("clip_mean_actions", FLAGS)
@pytest.mark.parametrize("clip_actions", FLAGS)
def test_gaussian(
    clip_actions: bool,
    clip_mean_actions: bool,
    clip_log_std: bool,
    reduction: str,
    taken_box_actions: Tensor | None,
) -> None:
    assert_twins_act_alike(
        "GaussianMixin",
        ACTIONS,
        taken_box_actions,
        n_outputs=3,
        log_std=LOG_STD,
        clip_actions=clip_actions,
        clip_mean_actions=clip_mean_actions,
        clip_log_std=clip_log_std,
        reduction=reduction,
    )


@pytest.mark.parametrize("per_row", FLAGS)
def test_gaussian_without_gradients_is_exact(per_row: bool, taken_box_actions: Tensor | None) -> None:
    log_std = torch.linspace(-3.0, 1.0, 64 * 3).reshape(64, 3) if per_row else LOG_STD
    observations = torch.randn(64, N_OBSERVATIONS)
    results = []
    for library in (theirs, ours):
        twin = make_twin(
            library.GaussianMixin,
            library.Model,
            OBSERVATIONS,
            ACTIONS,
            n_outputs=3,
            log_std=log_std,
            reduction="none",
        )
        torch.manual_seed(0)
        more = {} if taken_box_actions is None else {"taken_actions": taken_box_actions}
        with torch.no_grad():
            results.append(twin.act({"observations": observations, **more})[1]["log_prob"])
    assert torch.equal(*results)


@pytest.mark.parametrize("limits", [(-20, 2), (-1, 0), (0.5, 0.5)])
def test_gaussian_bounds_of_log_std(limits: tuple[float, float], taken_box_actions: Tensor | None) -> None:
    low, high = limits
    assert_twins_act_alike(
        "GaussianMixin", ACTIONS, taken_box_actions, n_outputs=3, log_std=LOG_STD, min_log_std=low, max_log_std=high
    )


@pytest.mark.parametrize("clip_log_std", FLAGS)
@pytest.mark.parametrize("clip_mean_actions", FLAGS)
@pytest.mark.parametrize("clip_actions", FLAGS)
def test_multivariate_gaussian(
    clip_actions: bool, clip_mean_actions: bool, clip_log_std: bool, taken_box_actions: Tensor | None
) -> None:
    assert_twins_act_alike(
        "MultivariateGaussianMixin",
        ACTIONS,
        taken_box_actions,
        n_outputs=3,
        # With the clipped actions of LOG_STD, gradients of densities around e^(10^17) would be compared.
        log_std=torch.tensor([-3.0, -0.5, 2.5]),
        clip_actions=clip_actions,
        clip_mean_actions=clip_mean_actions,
        clip_log_std=clip_log_std,
    )


@pytest.mark.parametrize("taken", [None, torch.arange(64).remainder(5).unsqueeze(-1), torch.ones(64)])
@pytest.mark.parametrize("unnormalized", FLAGS)
def test_categorical(unnormalized: bool, taken: Tensor | None) -> None:
    assert_twins_act_alike(
        "CategoricalMixin",
        Discrete(5),
        taken,
        n_outputs=5,
        output=nn.Identity() if unnormalized else nn.Sigmoid(),
        unnormalized_log_prob=unnormalized,
    )


@pytest.mark.parametrize("with_taken", FLAGS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("unnormalized", FLAGS)
def test_multi_categorical(unnormalized: bool, reduction: str, with_taken: bool) -> None:
    taken = torch.stack([torch.arange(64) % 2, torch.arange(64) % 4, torch.arange(64) % 3], dim=-1).float()
    assert_twins_act_alike(
        "MultiCategoricalMixin",
        MultiDiscrete([2, 4, 3]),
        taken if with_taken else None,
        n_outputs=9,
        output=nn.Identity() if unnormalized else nn.Sigmoid(),
        unnormalized_log_prob=unnormalized,
        reduction=reduction,
        # Entropies are (…, 1) here, whatever the reduction.
        compare_entropy=reduction != "none",
    )


def test_tabular() -> None:
    def make(library: Any) -> nn.Module:
        class Table(library.TabularMixin, library.Model):
            def __init__(self) -> None:
                library.Model.__init__(
                    self, observation_space=Discrete(6), action_space=Discrete(3), device=torch.device("cpu")
                )
                library.TabularMixin.__init__(self)
                self.q = nn.Parameter(torch.arange(18.0).reshape(6, 3).sin(), requires_grad=False)

            def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
                rows = self.q[inputs["observations"].squeeze(-1)]
                return rows.argmax(dim=-1, keepdim=True), {"q": rows}

        return Table()

    inputs = {"observations": torch.arange(6).unsqueeze(-1)}
    (actions, outputs), (their_actions, their_outputs) = (make(library).act(inputs) for library in (ours, theirs))
    assert torch.equal(actions, their_actions)
    assert torch.equal(outputs["q"], their_outputs["q"])
    assert make(ours).tables().keys() == make(theirs).tables().keys()
    assert "q" in repr(make(ours))


@pytest.mark.parametrize("polyak", [1, 0.005, 0.5])
def test_update_parameters(polyak: float) -> None:
    results = []
    for library in (theirs, ours):
        arguments = library.DeterministicMixin, library.Model, OBSERVATIONS, ACTIONS
        target = make_twin(*arguments, n_outputs=3)
        source = copy.deepcopy(target)
        with torch.no_grad():
            torch.manual_seed(0)
            for parameter in source.parameters():
                parameter += torch.randn_like(parameter)
        target.update_parameters(source, polyak=polyak)
        results.append(list(target.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
