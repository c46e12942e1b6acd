"""What every planner obeys. An implementation joins with a subclass that says how it is made."""

from abc import ABC, abstractmethod
from typing import ClassVar

import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

from layeredrl.planners.planner import Planner, PlannerState
from layeredrl.planners.refinement import GradientRefinement
from layeredrl.spaces import bounds, is_discrete
from tests.reference.riccati import DOUBLE_INTEGRATOR

INF, NAN = float("inf"), float("nan")
H = 4
BOX_1D = Box(-2.0, 2.0, (1,))
BOX_2D = Box(torch.tensor([-1.0, 0.5]).numpy(), torch.tensor([3.0, 0.75]).numpy())
DISCRETE = Discrete(3, start=5)
MIXED = Dict({"turn": Discrete(3, start=-1), "push": BOX_2D, "grip": MultiDiscrete([2, 3])})
ALL_SPACES = {
    "box-1d": BOX_1D,
    "box-2d": BOX_2D,
    "discrete": DISCRETE,
    "multi-discrete": MultiDiscrete([2, 4, 3], start=[0, 1, -1]),
    "dict": MIXED,
    "tuple": Tuple([Discrete(2), BOX_1D]),
}
SPACES = pytest.mark.parametrize("space", ALL_SPACES.values(), ids=ALL_SPACES.keys())


def is_choice(space: Space) -> torch.Tensor:
    """For each number of an action, whether only whole values are allowed: those that samples never leave."""
    if isinstance(space, Dict):  # in the order of sorted keys
        return torch.cat([is_choice(space[key]) for key in sorted(space)])
    if isinstance(space, Tuple):
        return torch.cat([is_choice(part) for part in space])
    size = 1 if isinstance(space, Discrete) else len(space.shape) and space.shape[0]
    return torch.full((size,), not isinstance(space, Box))


def draw_plans(space: Space, *leading: int) -> torch.Tensor:
    """Sequences of actions inside the space."""
    low, high = bounds(space)
    uniform = low + (high - low) * torch.rand(*leading, H, len(low))
    plans = torch.where(is_choice(space), uniform.round(), uniform)
    return plans.long() if is_discrete(space) else plans


def closeness(target: torch.Tensor):
    """Objective: minus the squared distance to one plan `(H, A)`, or to one for each environment `(V, H, A)`."""
    return lambda plans: -(plans - target.unsqueeze(-3)).float().square().sum(dim=(2, 3))


def tensors(state: PlannerState) -> tuple[torch.Tensor, ...]:
    return state.mean, state.elites, state.n_open


class Recorder:
    """An objective that remembers what it was asked."""

    def __init__(self, objective):
        self.objective, self.asked = objective, []

    def __call__(self, plans):
        self.asked.append(plans.clone())
        return self.objective(plans)


class PlannerContract(ABC):
    # With these settings, the best of the candidates is returned.
    returns_best: ClassVar[dict] = {}
    # Spread of the first draws as a share of `initial_std`.
    spread: ClassVar = 1.0

    @abstractmethod
    def make(self, action_space: Space, horizon: int = H, **settings) -> Planner:
        """A planner with these settings."""

    @SPACES
    @pytest.mark.parametrize("initial_std", [None, 100.0])
    def test_candidates_and_result_lie_inside_the_space(self, space, initial_std):
        low, high = bounds(space)
        objective = Recorder(lambda plans: plans.float().sum(dim=(2, 3)))
        planner = self.make(space, initial_std=initial_std)
        plan = planner.plan(objective, planner.init(2))
        for actions in (*objective.asked, plan.actions):
            assert ((low <= actions) & (actions <= high)).all()
            choices = actions[..., is_choice(space)]
            assert torch.equal(choices, choices.round())
            assert actions.is_floating_point() != is_discrete(space)
        assert plan.actions.shape == (2, H, len(low))

    @SPACES
    def test_all_of_the_space_is_tried(self, space):
        """Every choice, and both halves of every number."""
        objective = Recorder(lambda plans: plans.float().sum(dim=(2, 3)))
        planner = self.make(space, n_candidates=2000)
        planner.plan(objective, planner.init(1))
        first = objective.asked[0]
        for number, is_whole, low, high in zip(first.unbind(-1), is_choice(space), *bounds(space), strict=True):
            if is_whole:
                values, counts = number.unique(return_counts=True)
                assert values.tolist() == list(range(int(low), int(high) + 1))
                assert counts.min() > 0.7 * number.numel() / len(values)
            else:
                assert ((number < (low + high) / 2).float().mean() - 0.5).abs() < 0.05

    def test_values_identify_their_plans(self):
        """A value that names its candidate comes back with the very plan that had it."""
        planner = self.make(BOX_1D, **self.returns_best)
        plan = planner.plan(lambda plans: plans[..., 2, 0], planner.init(5))
        assert torch.equal(plan.value, plan.actions[:, 2, 0])

    def test_spread_of_the_candidates_is_the_initial_std(self):
        std = torch.tensor([0.5, 3.0])
        planner = self.make(Box(-100.0, 100.0, (2,)), n_candidates=4000, initial_std=std)
        objective = Recorder(lambda plans: plans.sum(dim=(2, 3)))
        planner.plan(objective, planner.init(1))
        spread = objective.asked[0].std(dim=(0, 1, 2))
        torch.testing.assert_close(spread, self.spread * std, rtol=0.05, atol=0.0)

    def test_initial_std_is_a_quarter_of_the_width_unless_given(self):
        assert self.make(BOX_2D).space.initial_std.tolist() == [1.0, 0.0625]
        assert self.make(BOX_2D, initial_std=0.5).space.initial_std.tolist() == [0.5, 0.5]

    def test_unbounded_box_needs_an_initial_std(self):
        half_bounded, target = Box(1.0, INF, (1,)), torch.full((H, 1), 2.0)
        with pytest.raises(ValueError, match=r"initial_std: got None, expected .* unbounded"):
            self.make(half_bounded)
        planner = self.make(half_bounded, initial_std=1.0)
        objective = Recorder(closeness(target))
        plan = planner.plan(objective, planner.init(1))
        assert (plan.actions - 2.0).abs().mean() < 0.8
        assert min(asked.min() for asked in objective.asked) >= 1.0

    @pytest.mark.parametrize("name", ["horizon", "n_candidates", "action_repeat"])
    @pytest.mark.parametrize("bad", [0, -1, 2.5])
    def test_sizes_that_are_no_positive_integers_are_refused(self, name, bad, unchecked):
        with pytest.raises((ValueError, TypeError), match=rf"{name}: got {bad}, expected"):
            self.make(BOX_1D, **{name: bad})

    @pytest.mark.parametrize("bad", [-0.1, 1.1, NAN])
    def test_a_share_outside_its_range_is_refused(self, bad):
        with pytest.raises(ValueError, match=rf"initial_share: got {bad}, expected a number in \[0, 1\]"):
            self.make(DISCRETE, initial_share=bad)

    def test_a_spread_of_another_size_is_refused(self, unchecked):
        with pytest.raises(ValueError, match=r"initial_std: got shape \(3,\), expected .* 2 numbers"):
            self.make(MIXED, initial_std=torch.ones(3))
        assert self.make(MIXED, initial_std=torch.tensor([0.5, 0.1])).space.initial_std.sum() == pytest.approx(0.6)

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
        """The first environment is new, the others are in the middle of an episode."""
        planner, targets = self.make(space), draw_plans(space, 3)
        state = planner.shift(planner.plan(closeness(targets.flip(0)), planner.init(3)).state)
        state = planner.reset(state, torch.tensor([True, False, False]))
        noise, proposals = planner.draw_noise(3), draw_plans(space, 3, 2)
        together = planner.search(closeness(targets), state, noise, proposals)
        for v in range(3):
            at = torch.tensor([v])
            alone = planner.search(closeness(targets[at]), state[at], noise[:, at], proposals[at])
            torch.testing.assert_close(together.actions[at], alone.actions)
            torch.testing.assert_close(together.value[at], alone.value)
            for got, expected in zip(tensors(together.state[at]), tensors(alone.state), strict=True):
                torch.testing.assert_close(got, expected)

    @SPACES
    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    @pytest.mark.parametrize("offset", [-1e4, 0.0, 1e4])
    def test_a_value_that_is_not_finite_is_never_chosen(self, space, bad, offset):
        middle = sum(bounds(space))[0] / 2

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
        proposals = draw_plans(space, 2, 3)
        only = proposals[:, 1]

        def objective(plans):
            return torch.where((plans == only.unsqueeze(1)).all(dim=(2, 3)), -7.0, bad)

        planner = self.make(space)
        plan = planner.plan(objective, planner.init(2), proposals=proposals)
        assert plan.value.tolist() == [-7.0, -7.0]
        assert torch.equal(plan.actions, only)
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
        before = [x.clone() for x in tensors(state)]
        after = planner.reset(state, torch.tensor([True, False, True]))
        for got, new, old in zip(tensors(after), tensors(planner.init(3)), before, strict=True):
            assert torch.equal(got[[0, 2]], new[[0, 2]])
            assert torch.equal(got[1], old[1])
        assert all(torch.equal(*pair) for pair in zip(tensors(state), before, strict=True))

    @SPACES
    def test_an_environment_that_was_reset_is_planned_for_like_a_new_one(self, space):
        """Whatever the last episode left behind, elites included."""
        planner, target, mask = self.make(space), draw_plans(space), torch.tensor([True])
        used = planner.shift(planner.plan(closeness(draw_plans(space)), planner.init(1)).state)
        objectives = Recorder(closeness(target)), Recorder(closeness(target))
        for state, objective in zip((planner.reset(used, mask), planner.init(1)), objectives, strict=True):
            planner.plan(objective, state, generator=torch.Generator().manual_seed(0))
        for got, expected in zip(*(objective.asked for objective in objectives), strict=True):
            assert torch.equal(got, expected)

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
        shifted = planner.shift(state, steps)
        expected = torch.cat([state.mean[:, steps:], planner.init(2).mean], dim=1)[:, :H]
        assert torch.equal(shifted.mean, expected)
        assert shifted.n_open.tolist() == [min(steps, H)] * 2
        assert torch.equal(shifted.elites[:, :, : max(H - steps, 0)], state.elites[:, :, steps:])
        assert planner.shift(shifted, 1).n_open.tolist() == [min(steps + 1, H)] * 2

    @SPACES
    def test_planning_does_not_write_to_what_it_is_given(self, space):
        planner, proposals = self.make(space), draw_plans(space, 2, 3)
        state = planner.init(2)
        given = (*tensors(state), proposals)
        before = [x.clone() for x in given]
        planner.plan(closeness(draw_plans(space)), state, proposals=proposals)
        assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))

    def test_no_gradient_graph_is_kept(self):
        planner, gain = self.make(BOX_1D), torch.ones(1, requires_grad=True)
        plan = planner.plan(lambda plans: (gain * plans).sum(dim=(2, 3)), planner.init(1))
        results = (plan.value, plan.actions, plan.state.mean, *plan.diagnostics.values())
        assert not any(result.requires_grad for result in results)

    @SPACES
    def test_the_best_proposal_is_returned_if_nothing_beats_it(self, space):
        proposals = draw_plans(space, 2, 3)
        best = proposals[:, 1]

        def objective(plans):
            """One plan is good, and no other gives a hint of it."""
            return (plans == best.unsqueeze(1)).all(dim=(2, 3)).float()

        planner = self.make(space, n_candidates=20, **self.returns_best)
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
    def test_each_decision_is_held_for_action_repeat_steps(self, space):
        planner = self.make(space, horizon=6, action_repeat=3)
        objective = Recorder(lambda plans: plans.float().sum(dim=(2, 3)))
        plan = planner.plan(objective, planner.init(2))
        for actions in (*objective.asked, plan.actions.unsqueeze(1)):
            assert actions.shape[2] == 6
            assert torch.equal(actions[:, :, :3], actions[:, :, :1].expand_as(actions[:, :, :3]))
            assert torch.equal(actions[:, :, 3:], actions[:, :, 3:4].expand_as(actions[:, :, 3:]))
        shifted = planner.shift(plan.state)
        assert torch.equal(shifted.mean[:, 0], plan.state.mean[:, 1])
        assert torch.equal(planner.shift(plan.state, 6).mean, planner.init(2).mean)

    def test_steps_and_horizons_that_cut_a_decision_are_refused(self):
        with pytest.raises(ValueError, match=r"horizon: got 4, expected a multiple of action_repeat=3"):
            self.make(BOX_1D, action_repeat=3)
        planner = self.make(BOX_1D, action_repeat=2)
        for steps in (1, 3, -2):
            with pytest.raises(ValueError, match=rf"steps: got {steps}, expected a multiple of action_repeat=2"):
                planner.shift(planner.init(1), steps)

    def test_proposals_are_read_once_per_decision(self):
        planner = self.make(BOX_1D, action_repeat=2, **self.returns_best)
        proposals = torch.tensor([2.0, 2.0, -2.0, -2.0]).reshape(1, 1, 4, 1)
        plan = planner.plan(lambda x: x[..., 0, 0] - x[..., 2, 0], planner.init(1), proposals=proposals)
        assert torch.equal(plan.actions, proposals[0])

    def test_refinement_climbs_to_the_top(self):
        target = draw_plans(BOX_2D, 3)
        refinement = GradientRefinement(n_steps=500, learning_rate=0.02)
        planner = self.make(BOX_2D, refinement=refinement)
        refined = planner.plan(closeness(target), planner.init(3))
        assert (refined.value > -5e-3).all()
        torch.testing.assert_close(refined.actions, target, rtol=0, atol=0.05)
        torch.testing.assert_close(refined.value, closeness(target)(refined.actions.unsqueeze(1)).squeeze(1))

    def test_refinement_stays_inside_the_bounds_and_never_makes_a_plan_worse(self):
        planner = self.make(BOX_1D, refinement=GradientRefinement(n_steps=3, learning_rate=100.0))
        objective = Recorder(lambda plans: -(plans - 1.9).square().sum(dim=(2, 3)))
        plan = planner.plan(objective, planner.init(2), generator=torch.Generator().manual_seed(0))
        assert max(asked.abs().max() for asked in objective.asked) <= 2.0
        unrefined = self.make(BOX_1D)
        before = unrefined.plan(objective, unrefined.init(2), generator=torch.Generator().manual_seed(0))
        assert (plan.value >= before.value).all()

    def test_a_broken_gradient_leaves_the_plan_as_it_is(self):
        """The root has no slope at its end, where all of the first environment's plans lie."""
        gain = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)

        def objective(plans):
            return (gain * (plans + 2)).sqrt().sum(dim=(2, 3))

        plans = []
        for more in ({}, {"refinement": GradientRefinement(n_steps=50)}):
            planner = self.make(BOX_1D, **more)
            plans.append(planner.plan(objective, planner.init(2), generator=torch.Generator().manual_seed(0)))
        assert torch.equal(plans[0].actions[0], plans[1].actions[0])
        assert plans[1].value[1] > plans[0].value[1]

    def test_choices_are_not_refined(self):
        for space in (DISCRETE, MIXED):
            with pytest.raises(ValueError, match=r"refinement: got one for .*, expected None, as choices have no"):
                self.make(space, refinement=GradientRefinement())

    def test_refinement_needs_a_differentiable_objective(self):
        planner = self.make(BOX_1D, refinement=GradientRefinement())
        with pytest.raises(ValueError, match=r"refinement: got an objective without a gradient"):
            planner.plan(lambda plans: plans.detach().sum(dim=(2, 3)), planner.init(1))

    def test_a_state_of_another_planner_is_refused(self):
        planner = self.make(BOX_1D)
        with pytest.raises(ValueError, match=r"state: got a mean of shape \(2, 7, 1\), expected \(V, 4, 1\)"):
            planner.plan(closeness(torch.zeros(H, 1)), self.make(BOX_1D, horizon=7).init(2))

    def test_values_that_are_no_tensor_are_refused(self):
        planner = self.make(BOX_1D)
        with pytest.raises(TypeError, match=r"objective: got a list, expected a Tensor"):
            planner.plan(lambda plans: plans.sum(dim=(2, 3)).tolist(), planner.init(1))


class ConvergingPlannerContract(PlannerContract):
    """Of planners that refine a distribution, so that they get arbitrarily close to an optimum."""

    # With these settings, the optimum of an easy objective in some twenty dimensions is found.
    thorough: ClassVar = {"n_candidates": 400, "n_iterations": 20}

    @pytest.mark.parametrize("bad", [0, -1, 2.5])
    def test_a_number_of_iterations_that_is_no_positive_integer_is_refused(self, bad, unchecked):
        with pytest.raises(ValueError, match=rf"n_iterations: got {bad}, expected an integer of at least 1"):
            self.make(BOX_1D, n_iterations=bad)

    def test_a_warm_start_saves_iterations(self):
        """The plan of the last step, shifted, is nearly the best one now: a single iteration starts there."""
        target = draw_plans(BOX_2D, 1)
        thorough, hasty = self.make(BOX_2D, **self.thorough), self.make(BOX_2D, n_iterations=1)
        state = thorough.shift(thorough.plan(closeness(target), thorough.init(1)).state)
        later = torch.cat([target[:, 1:], thorough.space.initial_mean.expand(1, 1, 2)], dim=1)
        warm = hasty.plan(closeness(later), PlannerState(state.mean, hasty.init(1).elites, state.n_open))
        cold = hasty.plan(closeness(later), hasty.init(1))
        assert warm.value.item() > 0.5 * cold.value.item()

    @SPACES
    def test_it_finds_the_optimum_of_a_simple_objective(self, space):
        """To one percent of the bounds' width; exactly, where there is a choice."""
        targets, (low, high) = draw_plans(space, 3), bounds(space)
        planner = self.make(space, **self.thorough)

        def objective(plans):
            """Every number counts alike, as a share of its width."""
            return -((plans - targets.unsqueeze(1)) / (high - low)).square().sum(dim=(2, 3))

        plan = planner.plan(objective, planner.init(3))
        tolerance = torch.where(is_choice(space), 0.0, 0.01 * (high - low))
        assert ((plan.actions - targets).abs() <= tolerance).all()

    def test_linear_quadratic_regulation_costs_at_most_one_percent_more_than_riccati(self):
        start, horizon = torch.tensor([1.0, -0.5]), 20
        best = DOUBLE_INTEGRATOR.optimal_actions(start, horizon)
        assert best.abs().max() < 5
        planner = self.make(Box(-5.0, 5.0, (1,)), horizon, **self.thorough)
        plan = planner.plan(lambda plans: -DOUBLE_INTEGRATOR.cost(start, plans), planner.init(1))
        optimum = DOUBLE_INTEGRATOR.cost(start, best).item()
        assert optimum * 0.9999 <= -plan.value.item() <= optimum * 1.01
