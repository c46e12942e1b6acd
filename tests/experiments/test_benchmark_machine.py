"""The benchmark knows its machine, and notices who else uses it."""

import pytest

from experiments import benchmark_machine
from experiments.benchmark_machine import ProcessorTime, processor_name
from experiments.benchmark_report import print_disturbance


def test_the_processor_is_called_what_the_system_calls_it(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_machine, "PROC", tmp_path)
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast One @ 3 GHz\nflags\t: avx2\n")
    assert processor_name() == "Fast One @ 3 GHz"


def test_a_processor_without_a_name_is_called_something(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_machine, "PROC", tmp_path)
    assert processor_name()


def test_others_are_what_is_left_of_everyone():
    start = ProcessorTime(everyone=100.0, own=20.0, clock=50.0)
    assert ProcessorTime(everyone=130.0, own=35.0, clock=60.0).others_since(start) == pytest.approx(1.5)
    assert ProcessorTime(everyone=115.0, own=36.0, clock=60.0).others_since(start) == 0.0


def test_nothing_is_said_of_others_where_nothing_is_known(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_machine, "PROC", tmp_path)
    start = ProcessorTime.now()
    others = ProcessorTime.now().others_since(start)
    print_disturbance(others)
    assert others is None
    assert capsys.readouterr().out == ""


def test_time_that_processors_wait_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_machine, "PROC", tmp_path)
    monkeypatch.setattr(benchmark_machine.os, "sysconf", lambda _: 100)
    (tmp_path / "stat").write_text("cpu  100 200 300 9999 8888 400 500 600 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert ProcessorTime.now().everyone == 21.0


def test_figures_taken_beside_other_work_are_called_so(capsys):
    print_disturbance(0.05)
    assert capsys.readouterr().out == ""
    print_disturbance(0.8)
    assert "Others kept 0.8 processors busy meanwhile" in capsys.readouterr().out
