"""Every measurement runs, and gives a row for everything that it compares with."""

import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from experiments import benchmark_import, measuring
from experiments.benchmark_contest import BOUND, LOOP, UNFUSED
from experiments.benchmark_import import imported_modules, measure_import
from experiments.benchmark_peers import MBRL, PYTORCH_MPPI, SKRL, TORCHRL, Peer
from experiments.benchmark_planning import measure_envs, measure_pendulum, measure_plan
from experiments.benchmark_policy import CASES, measure_policy
from experiments.benchmark_rollout import measure_predict, measure_rollout
from experiments.benchmark_scaling import measure_scaling
from experiments.benchmark_training import measure_fit, measure_train
from tests.experiments.tiny_benchmark import TINY, tiny_bench


@pytest.fixture(autouse=True)
def _small_product(monkeypatch):
    monkeypatch.setitem(measuring.MATRIX_SIZES, "cpu", 64)


def installed(peer: Peer) -> Peer:
    for module in peer.modules:
        pytest.importorskip(module)
    return peer


def rivals(rows):
    return [row.other_name for row in rows]


def test_without_peers_there_are_the_bound_and_the_plain_loop():
    bench = tiny_bench()
    assert rivals(measure_rollout(bench)) == 2 * [BOUND, UNFUSED, LOOP]
    assert rivals(measure_predict(bench)) == [LOOP]
    assert rivals(measure_train(bench)) == [BOUND, LOOP]
    assert rivals(measure_fit(bench)) == [BOUND]
    assert rivals(measure_plan(bench)) == [BOUND, UNFUSED]
    assert rivals(measure_pendulum(bench)) == ["the bar"]
    assert rivals(measure_policy(bench)) == []


def test_a_mixture_has_a_bound_of_its_own():
    gaussian, _, _, mixture, *_ = measure_rollout(tiny_bench())
    assert "M=1" in gaussian.name
    assert f"M={TINY.n_modes}" in mixture.name


def test_a_training_step_takes_three_passes(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))  # every turn takes a second
    bound, _ = measure_train(tiny_bench())
    n_rows, n_inputs, n_outputs = 3 * 256, 18 + 6, 2 * 18 + 2
    forward = 2 * n_rows * (n_inputs * 8 + 8 * 8 + 8 * n_outputs)
    assert bound.other.median == pytest.approx(3 * forward / (2 * 64**3))  # a product took one


def test_mbrl_lib_does_the_same_work():
    bench = tiny_bench(installed(MBRL))
    assert rivals(measure_rollout(bench)) == [BOUND, UNFUSED, LOOP, MBRL.name, BOUND, UNFUSED, LOOP]
    assert rivals(measure_train(bench)) == [BOUND, LOOP, MBRL.name]
    assert rivals(measure_fit(bench)) == [BOUND, MBRL.name]
    assert rivals(measure_plan(bench)) == [BOUND, UNFUSED, MBRL.name]


def test_torchrl_does_the_same_work():
    rows = measure_plan(tiny_bench(installed(TORCHRL)))
    assert rivals(rows) == [BOUND, UNFUSED, BOUND, f"{TORCHRL.name}, CEMPlanner"]
    assert rows[-1].name.startswith("plan by CEM")


@torch.no_grad()
def test_torchrl_moves_every_particle_by_its_own_member():
    installed(TORCHRL)
    particles = import_module("experiments.benchmark_torchrl")._Particles(TINY.pets)
    for tensor in particles.ensemble.parameters():
        tensor.zero_()
    particles.ensemble.biases[-1][:] = 100 * torch.arange(3)[:, None, None]  # member e moves by 100 e
    state = 1000 * torch.arange(5 * 6).view(5, 6, 1).expand(-1, -1, TINY.pets.n_states)
    moved = particles(state, torch.zeros(5, 1)) - state
    assert (moved[..., 0] / 100).round().tolist() == [[0, 0, 1, 1, 2, 2]] * 5


def test_pytorch_mppi_does_the_same_work():
    rows = measure_plan(tiny_bench(installed(PYTORCH_MPPI)))
    assert rivals(rows) == [BOUND, UNFUSED, BOUND, PYTORCH_MPPI.name]
    assert rows[-1].name.startswith("plan by MPPI")


def test_pytorch_mppi_gives_every_member_all_plans(monkeypatch):
    installed(PYTORCH_MPPI)
    peer = import_module("experiments.benchmark_mppi")
    asked = []

    class Recorder(torch.nn.Module):
        def __init__(self, planning):
            super().__init__()

        def forward(self, state, action):
            asked.append(action)
            return state

    monkeypatch.setattr(peer, "PlainEnsemble", Recorder)
    plan = peer.pytorch_mppi_plan(TINY.pets, torch.device("cpu"), std=1.0)
    plan()
    assert len(asked) == TINY.pets.n_iterations * TINY.pets.horizon
    assert all(torch.equal(action, action[:1].expand_as(action)) for action in asked)
    assert asked[0].shape == (3, 2 * 20, 1)


def test_fits_of_unequal_length_are_not_compared(monkeypatch):
    optimizer = torch.optim.SGD([torch.zeros(1)])
    short = SimpleNamespace(mbrl_fit=lambda *_, **__: optimizer.step)
    monkeypatch.setitem(sys.modules, "experiments.benchmark_mbrl", short)
    monkeypatch.setattr(Peer, "name", "short")
    with pytest.raises(RuntimeError, match=r"fit, .*: unequal work: 2 updates here, 1 in short"):
        measure_fit(tiny_bench(MBRL))


def test_environments_are_compared_with_one_alone(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))  # every turn takes a second
    rows = measure_envs(tiny_bench())
    assert [(row.name, row.other_name) for row in rows] == [
        ("plan per environment, V=1", "V=1"),
        ("plan per environment, V=4", "V=1"),
    ]
    assert [row.ratio for row in rows] == [1.0, 0.25]


def test_the_bound_grows_with_what_is_varied():
    one_member, two_members, _, _ = measure_scaling(tiny_bench())
    assert two_members.other.median == pytest.approx(2 * one_member.other.median)


def test_every_mixin_has_a_row():
    rows = measure_policy(tiny_bench(installed(SKRL)))
    assert [row.name for row in rows] == [f"policy step, {case[0]}" for case in CASES]
    assert all(row.ratio > 0 for row in rows)


def test_what_the_readme_imports_is_timed(monkeypatch):
    assert "layeredrl.training.trainer" in imported_modules()
    program = benchmark_import.PROGRAM.replace("torch, gymnasium", "json")
    monkeypatch.setattr(benchmark_import, "PROGRAM", program)
    monkeypatch.setattr(benchmark_import, "imported_modules", lambda: ["decimal", "fractions"])
    bar, theirs = measure_import(tiny_bench())
    assert (bar.other.median, bar.other_name) == (0.15, "the bar")
    assert 0 < theirs.ours.median < 10
