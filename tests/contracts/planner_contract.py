"""What every planner obeys. An implementation joins with a subclass that says how it is made."""

from abc import ABC, abstractmethod
from typing import ClassVar

import pytest
import torch
from gymnasium.spaces import Box, Discrete, Space

from layeredrl.planners.planner import Planner, PlannerState
from tests.reference.riccati import DOUBLE_INTEGRATOR

INF, NAN = float("inf"), float("nan")
H = 4
BOX_1D = Box(-2.0, 2.0, (1,))
BOX_2D = Box(torch.tensor([-1.0, 0.5]).numpy(), torch.tensor([3.0, 0.75]).numpy())
DISCRETE = Discrete(3, start=5)
SPACES = pytest.mark.parametrize("space", [BOX_1D, BOX_2D, DISCRETE], ids=["box-1d", "box-2d", "discrete"])


def limits(space: Space) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(space, Discrete):
        return torch.tensor([space.start]), torch.tensor([space.start + space.n - 1])
    return torch.as_tensor(space.low), torch.as_tensor(space.high)


def draw_plans(space: Space, *leading: int) -> torch.Tensor:
    """Sequences of actions inside the space."""
    low, high = limits(space)
    if isinstance(space, Discrete):
        return torch.randint(int(low), int(high) + 1, (*leading, H, 1))
    return low + (high - low) * torch.rand(*leading, H, len(low))


def closeness(target: torch.Tensor):
    """Objective: minus the squared distance to one plan `(H, A)`, or to one for each environment `(V, H, A)`."""
    return lambda plans: -(plans - target.unsqueeze(-3)).float().square().sum(dim=(2, 3))


class Recorder:
    """An objective that remembers what it was asked."""

    def __init__(self, objective):
        self.objective, self.asked = objective, []

    def __call__(self, plans):
        self.asked.append(plans.clone())
        return self.objective(plans)


class PlannerContract(ABC):
    # With these settings, a planner finds the optimum of an easy objective in some twenty dimensions.
    thorough: ClassVar = {"n_candidates": 400, "n_iterations": 20}

    @abstractmethod
    def make(self, action_space: Space, horizon: int = H, **settings) -> Planner:
        """A planner with these settings."""

    @SPACES
    def test_candidates_and_result_lie_inside_the_space(self, space):
        low, high = limits(space)
        objective = Recorder(lambda plans: plans.float().sum(dim=(2, 3)))
        spread = {} if isinstance(space, Discrete) else {"initial_std": 100.0}
        plan = self.make(space, **spread).plan(objective, self.make(space).init(2))
        for actions in (*objective.asked, plan.actions):
            assert ((low <= actions) & (actions <= high)).all()
        assert plan.actions.shape == (2, H, len(low))

    def test_spread_of_the_candidates_is_the_initial_std(self):
        std = torch.tensor([0.5, 3.0])
        planner = self.make(Box(-100.0, 100.0, (2,)), n_candidates=4000, initial_std=std)
        objective = Recorder(lambda plans: plans.sum(dim=(2, 3)))
        planner.plan(objective, planner.init(1))
        torch.testing.assert_close(objective.asked[0].std(dim=(0, 1, 2)), std, rtol=0.05, atol=0.0)

    def test_initial_std_is_a_quarter_of_the_width_unless_given(self):
        assert self.make(BOX_2D).initial_std.tolist() == [1.0, 0.0625]
        assert self.make(BOX_2D, initial_std=0.5).initial_std.tolist() == [0.5, 0.5]

    def test_unbounded_box_needs_an_initial_std(self):
        half_bounded, target = Box(1.0, INF, (1,)), torch.full((H, 1), 2.0)
        with pytest.raises(ValueError, match=r"initial_std: got None, expected .* unbounded"):
            self.make(half_bounded)
        planner = self.make(half_bounded, initial_std=1.0, **self.thorough)
        objective = Recorder(closeness(target))
        plan = planner.plan(objective, planner.init(1))
        torch.testing.assert_close(plan.actions[0], target, rtol=0, atol=0.1)
        assert min(asked.min() for asked in objective.asked) >= 1.0

    @pytest.mark.parametrize("name", ["horizon", "n_candidates", "n_iterations"])
    @pytest.mark.parametrize("bad", [0, -1, 2.5])
    def test_sizes_that_are_no_positive_integers_are_refused(self, name, bad, unchecked):
        with pytest.raises((ValueError, TypeError), match=rf"{name}: got {bad}, expected"):
            self.make(BOX_1D, **{name: bad})

    def test_a_spread_that_is_not_positive_is_refused(self, unchecked):
        for bad in (0.0, -1.0, NAN):
            with pytest.raises(ValueError, match=rf"initial_std: got {bad}, expected positive numbers"):
                self.make(BOX_1D, initial_std=bad)

    @SPACES
    def test_same_generator_gives_the_same_plan_and_spares_the_global_one(self, space):
        planner, objective = self.make(space), closeness(draw_plans(space))
        before = torch.get_rng_state()
        plans = [
            planner.plan(objective, planner.init(2), generator=torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(plans[0].actions, plans[1].actions)
        assert torch.equal(plans[0].state.mean, plans[1].state.mean)
        assert not torch.equal(plans[0].state.mean, plans[2].state.mean)

    @SPACES
    def test_a_batch_of_environments_equals_each_alone(self, space):
        planner, targets = self.make(space), draw_plans(space, 3)
        state = planner.shift(planner.plan(closeness(targets.flip(0)), planner.init(3)).state)
        noise, proposals = planner.draw_noise(3), draw_plans(space, 3, 2)
        together = planner.search(closeness(targets), state, noise, proposals)
        for v in ([0], [1], [2]):
            own_state = PlannerState(state.mean[v])
            alone = planner.search(closeness(targets[v]), own_state, noise[:, v], proposals[v])
            torch.testing.assert_close(together.actions[v], alone.actions)
            torch.testing.assert_close(together.value[v], alone.value)
            torch.testing.assert_close(together.state.mean[v], alone.state.mean)

    @SPACES
    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    @pytest.mark.parametrize("offset", [-1e4, 0.0, 1e4])
    def test_a_value_that_is_not_finite_is_never_chosen(self, space, bad, offset):
        middle = sum(limits(space))[0] / 2

        def objective(plans):
            """Better and better towards where it breaks down."""
            return torch.where(plans[..., 0, 0] > middle, bad, offset + plans.float().sum(dim=(2, 3)))

        planner = self.make(space)
        plan = planner.plan(objective, planner.init(2))
        assert (plan.actions[:, 0, 0] <= middle).all()
        assert plan.value.isfinite().all()
        assert plan.state.mean.isfinite().all()

    @SPACES
    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    def test_a_single_finite_candidate_is_chosen(self, space, bad):
        objective = Recorder(lambda plans: torch.full(plans.shape[:2], bad).index_fill(1, torch.tensor([3]), -7.0))
        planner = self.make(space)
        plan = planner.plan(objective, planner.init(2))
        assert plan.value.tolist() == [-7.0, -7.0]
        assert any(torch.equal(plan.actions, asked[:, 3]) for asked in objective.asked)
        assert plan.state.mean.isfinite().all()

    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    def test_no_finite_candidate_at_all_is_an_error_that_names_the_environment(self, bad):
        planner = self.make(BOX_1D)
        values = torch.tensor([[0.0], [bad], [0.0], [bad]])
        with pytest.raises(ValueError, match=r"no finite value .* environments \[1, 3\]"):
            planner.plan(lambda plans: values.repeat(1, plans.shape[1]), planner.init(4))

    @pytest.mark.parametrize("shape", [lambda v, n: (v, n, 1), lambda v, n: (n,), lambda v, n: (n, v)])
    def test_values_of_a_wrong_shape_are_refused(self, shape):
        planner = self.make(BOX_1D)
        with pytest.raises(ValueError, match=r"objective: got values of shape .*, expected \(2, \d+\)"):
            planner.plan(lambda plans: torch.zeros(shape(*plans.shape[:2])), planner.init(2))

    @SPACES
    def test_reset_forgets_masked_environments_only(self, space):
        planner = self.make(space)
        state = planner.plan(closeness(draw_plans(space)), planner.init(3)).state
        before = state.mean.clone()
        fresh = planner.reset(state, torch.tensor([True, False, True])).mean
        assert torch.equal(fresh[[0, 2]], planner.init(2).mean)
        assert torch.equal(fresh[1], before[1])
        assert torch.equal(state.mean, before)

    @pytest.mark.parametrize("mask", [torch.ones(1, dtype=torch.bool), torch.ones(3), torch.tensor(True)])
    def test_reset_refuses_what_is_no_mask(self, mask, unchecked):
        planner = self.make(BOX_1D)
        with pytest.raises((ValueError, TypeError), match=r"mask: got .*, expected"):
            planner.reset(planner.init(3), mask)

    @SPACES
    @pytest.mark.parametrize("steps", [1, 3, H, H + 3])
    def test_shift_moves_the_mean_forward_and_opens_the_end(self, space, steps):
        planner = self.make(space)
        state = planner.plan(closeness(draw_plans(space)), planner.init(2)).state
        expected = torch.cat([state.mean[:, steps:], planner.init(2).mean], dim=1)[:, :H]
        assert torch.equal(planner.shift(state, steps).mean, expected)

    @SPACES
    def test_planning_does_not_write_to_what_it_is_given(self, space):
        planner, proposals = self.make(space), draw_plans(space, 2, 3)
        given = planner.init(2).mean, proposals
        before = [x.clone() for x in given]
        planner.plan(closeness(draw_plans(space)), PlannerState(given[0]), proposals=proposals)
        assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))

    def test_no_gradient_graph_is_kept(self):
        planner, gain = self.make(BOX_1D), torch.ones(1, requires_grad=True)
        plan = planner.plan(lambda plans: (gain * plans).sum(dim=(2, 3)), planner.init(1))
        results = (plan.value, plan.actions, plan.state.mean, *plan.diagnostics.values())
        assert not any(result.requires_grad for result in results)

    @SPACES
    @pytest.mark.parametrize("n_iterations", [1, 5])
    def test_the_best_proposal_is_returned_if_nothing_beats_it(self, space, n_iterations):
        proposals = draw_plans(space, 2, 3)
        best = proposals[:, 1]

        def objective(plans):
            """One plan is good, and no other gives a hint of it."""
            return (plans == best.unsqueeze(1)).all(dim=(2, 3)).float()

        planner = self.make(space, n_iterations=n_iterations, n_candidates=20)
        plan = planner.plan(objective, planner.init(2), proposals=proposals)
        assert torch.equal(plan.actions, best)
        assert plan.value.tolist() == [1.0, 1.0]

    def test_proposals_that_rounding_moved_outside_are_brought_back(self):
        planner = self.make(BOX_1D)
        proposals = torch.full((1, 1, H, 1), 2.0 + 1e-6)
        objective = Recorder(lambda plans: plans.sum(dim=(2, 3)))
        plan = planner.plan(objective, planner.init(1), proposals=proposals)
        assert max(x.max() for x in (plan.actions, *objective.asked)) <= 2.0

    @SPACES
    def test_proposals_outside_the_space_or_of_wrong_shape_are_refused(self, space, unchecked):
        planner, good = self.make(space), draw_plans(space, 2, 3)
        wrong_shapes = good[:1], good[:, :, 1:], torch.cat([good, good], dim=-1), good[:, 0]
        for proposals in (good + 10, *wrong_shapes):
            with pytest.raises(ValueError, match=r"proposals: got .*, expected"):
                planner.plan(closeness(good[0, 0]), planner.init(2), proposals=proposals)
        with pytest.raises(TypeError, match=r"proposals: got list, expected a Tensor"):
            planner.plan(closeness(good[0, 0]), planner.init(2), proposals=good.tolist())

    @SPACES
    def test_it_finds_the_optimum_of_a_simple_objective(self, space):
        """To one percent of the bounds' width; exactly, if actions are Discrete."""
        targets, (low, high) = draw_plans(space, 3), limits(space)
        planner = self.make(space, **self.thorough)
        plan = planner.plan(closeness(targets), planner.init(3))
        tolerance = 0.01 * (high - low) if isinstance(space, Box) else 0
        assert ((plan.actions - targets).abs() <= tolerance).all()

    def test_linear_quadratic_regulation_costs_at_most_one_percent_more_than_riccati(self):
        start, horizon = torch.tensor([1.0, -0.5]), 20
        best = DOUBLE_INTEGRATOR.optimal_actions(start, horizon)
        assert best.abs().max() < 5
        planner = self.make(Box(-5.0, 5.0, (1,)), horizon, **self.thorough)
        plan = planner.plan(lambda plans: -DOUBLE_INTEGRATOR.cost(start, plans), planner.init(1))
        optimum = DOUBLE_INTEGRATOR.cost(start, best).item()
        assert optimum * 0.9999 <= -plan.value.item() <= optimum * 1.01
