"""The benchmark counts what it says, times in turns, and compares only what is equal."""

from dataclasses import replace
from functools import partial
from statistics import quantiles

import pytest
import torch
from torch import nn
from torch.nn.functional import silu
from torch.optim.optimizer import _global_optimizer_post_hooks

from experiments import measuring
from experiments.benchmark_contest import BOUND, check_equal_work, compare, count_model_steps, count_updates
from experiments.benchmark_plain import PlainMember
from experiments.benchmark_sizes import SIZES
from experiments.measuring import LargeProduct, Timing, repeated, timings
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from tests.experiments.tiny_benchmark import TINY, tiny_bench

DYNAMICS = TINY.dynamics
N_UNITS = sum(DYNAMICS.hidden_sizes)


def model_steps(n):
    """What activates as many hidden units as so many model steps."""
    return partial(silu, torch.zeros(n, N_UNITS))


@pytest.mark.parametrize("n_modes", [1, 5])
def test_flops_are_those_of_the_products_that_a_net_does(n_modes):
    dynamics = replace(SIZES.dynamics, n_modes=n_modes)
    ours = ProbFCDynamics(dynamics.state_space, None, dynamics.action_space, n_modes, dynamics.hidden_sizes)
    for net in (ours, PlainMember(dynamics)):
        products = sum(2 * layer.weight.numel() for layer in net.modules() if isinstance(layer, nn.Linear))
        assert dynamics.step_flops == products


def test_the_time_of_many_operations_is_scaled_from_one_product():
    product = LargeProduct()
    bound = product.time_for(3 * 2 * 2048**3, own=Timing(0.5, 0.25, 1.0))
    assert bound == Timing(1.5, 0.75, 3.0)


def test_a_timing_holds_the_median_and_the_quartiles():
    seconds = [5.0, 1.0, 2.0, 8.0, 3.0]
    low, median, high = quantiles(seconds, n=4, method="inclusive")
    assert Timing.of(seconds) == Timing(median, low, high)


def test_calls_take_turns_and_take_turns_in_being_first(monkeypatch):
    order = []
    taken = timings({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert list(taken) == ["a", "b"]


def test_warm_ups_do_not_count(monkeypatch):
    clock = iter([0.0, 100.0, 100.0, 101.0, 101.0, 104.0])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    assert timings({"a": lambda: None}, rounds=2)["a"].median == 2.0


def test_a_gpu_is_waited_for_before_every_look_at_the_clock(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: events.append("look") or 0.0)
    timings({"a": lambda: events.append("call")}, rounds=1, warm_ups=0, device="cuda")
    assert events == ["wait", "look", "call", "wait", "look"]


def test_model_steps_are_counted_however_hidden_units_are_activated():
    x = torch.zeros(6, N_UNITS)
    assert count_model_steps(DYNAMICS, lambda: nn.SiLU()(x)) == 6
    assert count_model_steps(DYNAMICS, lambda: silu(x.clone(), inplace=True)) == 6
    assert count_model_steps(DYNAMICS, lambda: torch.vmap(silu)(x)) == 6
    assert count_model_steps(DYNAMICS, lambda: torch.relu(x)) == 0


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_model_steps_are_counted_where_the_activation_is_part_of_a_linear_operator():
    x, weight = torch.zeros(6, 4), torch.zeros(N_UNITS, 4)

    def fused():
        torch.ops.mkldnn._linear_pointwise(x, weight, None, "swish", [], "")

    assert count_model_steps(DYNAMICS, fused) == 6


@torch.no_grad()
@pytest.mark.parametrize("fused", [True, False])
def test_the_ensemble_is_counted_by_particles_members_and_steps(fused):
    model = DYNAMICS.model(fused=fused)
    state, actions = torch.zeros(7, DYNAMICS.n_states), torch.zeros(7, 4, DYNAMICS.n_actions)
    n_steps = count_model_steps(DYNAMICS, lambda: model.rollout(state, None, actions))
    assert n_steps == 7 * 4 * DYNAMICS.n_models * DYNAMICS.n_particles


def test_updates_are_counted_and_nothing_stays_behind():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.ones(2)
    assert count_updates(repeated(optimizer.step, 3)) == 3
    assert not _global_optimizer_post_hooks


def test_unequal_work_is_not_compared():
    check_equal_work("plan", "theirs", 30, 31, "model steps", 1)
    with pytest.raises(RuntimeError, match="plan: unequal work: 30 model steps here, 32 in theirs, expected some"):
        check_equal_work("plan", "theirs", 30, 32, "model steps", 1)
    with pytest.raises(RuntimeError, match="unequal work: 0 model steps here, 0 in theirs"):
        check_equal_work("plan", "theirs", 0, 0, "model steps", 1)


def test_a_contest_refuses_a_rival_that_does_less():
    with pytest.raises(RuntimeError, match="rollout: unequal work: 6 model steps here, 5 in lazy"):
        compare(
            tiny_bench(), "rollout", DYNAMICS, model_steps(6), {"equal": model_steps(6), "lazy": model_steps(5)}
        )


def test_a_contest_has_a_row_for_the_bound_and_for_each_rival(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))  # every turn takes a second
    monkeypatch.setitem(measuring.MATRIX_SIZES, "cpu", 10)
    rows = compare(
        tiny_bench(), "rollout", DYNAMICS, model_steps(6), {"equal": model_steps(6)}, flops_per_step=500, times=4
    )
    assert [row.other_name for row in rows] == [BOUND, "equal"]
    assert [row.ours.median for row in rows] == [0.25, 0.25]
    assert [row.other.median for row in rows] == [6 * 500 / (2 * 10**3), 0.25]
    assert rows[1].ratio == 1.0
