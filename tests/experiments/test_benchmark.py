"""The benchmark counts what it says, and compares only what is equal."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from experiments import benchmark, benchmark_model, benchmark_peers, benchmark_planning
from experiments.benchmark import Args, main
from experiments.benchmark_peers import (
    check_equal_work,
    count_model_steps,
    mbrl_plan,
    our_plan,
)
from experiments.measuring import LargeProduct, forward_flops, medians

TINY = replace(
    benchmark_peers.CART_POLE, n_particles=2, n_candidates=20, horizon=3, n_iterations=2, hidden_sizes=(8, 8)
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(benchmark_peers, "CART_POLE", TINY)
    monkeypatch.setattr(
        benchmark_planning, "SMALL", replace(benchmark_planning.SMALL, hidden_sizes=(8,), horizon=2)
    )
    monkeypatch.setattr(benchmark_planning, "N_ENVS", (1, 4))


def test_flops_are_those_of_the_products_that_a_net_does():
    net = benchmark_model.NET(benchmark_model.STATE_SPACE, None, benchmark_model.ACTION_SPACE)
    products = sum(2 * layer.weight.numel() for layer in net.modules() if isinstance(layer, nn.Linear))
    assert forward_flops(24, benchmark_model.HIDDEN_SIZES, 2 * 18 + 2) == products


def test_the_time_of_many_operations_is_scaled_from_one_product():
    flops_of_one = 2 * 2048**3
    assert LargeProduct.seconds_for(3 * flops_of_one, product_seconds=0.5) == 1.5


def test_calls_take_turns_after_a_warm_up():
    order = []
    seconds = medians(2, lambda: order.append("a"), lambda: order.append("b"))
    assert order == ["a", "b"] * 3
    assert len(seconds) == 2


def test_our_plan_makes_the_model_steps_of_its_candidates_and_of_its_mean():
    n_plans = TINY.n_candidates * TINY.n_iterations + 1
    assert count_model_steps(TINY, our_plan(TINY)) == n_plans * TINY.n_models * TINY.n_particles * TINY.horizon


def test_mbrl_lib_plans_with_the_same_work():
    pytest.importorskip("mbrl")
    theirs = mbrl_plan(TINY)
    n_plans = TINY.n_candidates * TINY.n_iterations
    assert count_model_steps(TINY, theirs) == n_plans * TINY.n_models * TINY.n_particles * TINY.horizon
    check_equal_work(TINY, our_plan(TINY), theirs)


def test_unequal_work_is_not_compared():
    n_units = sum(TINY.hidden_sizes)
    one_candidate = TINY.n_models * TINY.n_particles * TINY.horizon
    enough, too_much = (partial(nn.SiLU(), torch.zeros(n, n_units)) for n in (30, 31 + one_candidate))
    check_equal_work(TINY, enough, enough)
    with pytest.raises(RuntimeError, match="unequal work: 61 model steps in our plan, 30 in the other"):
        check_equal_work(TINY, too_much, enough)


def test_without_mbrl_lib_the_rest_goes_on(tiny, monkeypatch, capsys):
    def missing(planning):
        raise ModuleNotFoundError(name="mbrl")

    monkeypatch.setattr(benchmark_peers, "mbrl_plan", missing)
    main(Args(only=("plan",), repeats=1))
    output = capsys.readouterr().out
    assert "mbrl is missing. To install it: .venv/bin/pip install" in output
    assert "the same FLOPs as sgemm" in output


def test_environments_are_compared_with_one_alone_and_drawn(tiny, tmp_path):
    main(Args(only=("envs",), repeats=1, json=tmp_path / "figures.json", picture=tmp_path / "envs.png"))
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [figure["name"] for figure in figures] == [f"plan per environment, V={n}" for n in (1, 4)]
    assert figures[0]["ratio"] == 1.0
    assert (tmp_path / "envs.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_needs_its_measurement(tmp_path):
    with pytest.raises(SystemExit, match=r"--picture: got .*envs.png, expected none unless envs is measured"):
        main(Args(only=("train",), picture=tmp_path / "envs.png"))


def test_unknown_measurements_are_refused():
    names = ", ".join(benchmark.MEASUREMENTS)
    with pytest.raises(SystemExit, match=f"--only: got speed, expected some of {names}"):
        main(Args(only=("speed",)))
