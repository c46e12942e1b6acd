"""The command: what it refuses, what it prints, what it writes."""

import contextlib
import json
import sys

import pytest
import torch
import tyro

from experiments import measuring
from experiments.benchmark import MEASUREMENTS, Args, main
from experiments.benchmark_report import figures, print_table
from experiments.measuring import Row, Timing
from tests.experiments.tiny_benchmark import TINY


@pytest.fixture(autouse=True)
def _small_product(monkeypatch):
    monkeypatch.setitem(measuring.MATRIX_SIZES, "cpu", 64)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (Args(only=("speed",)), "--only: got speed, expected some of rollout, predict,"),
        (Args(threads=0), "--threads: got 0, expected at least 1"),
        (Args(repeats=0), "--repeats: got 0, expected at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(args, message):
    with pytest.raises(SystemExit, match=message):
        main(args, TINY)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device: got cuda, expected cpu, as torch finds no CUDA device here"):
        main(Args(only=("predict",), device="cuda"), TINY)


def test_places_that_nothing_can_be_written_to_are_refused_at_once(tmp_path):
    with pytest.raises(SystemExit, match=r"--json: got .*, expected a file in a folder that exists"):
        main(Args(json=tmp_path / "missing" / "figures.json"), TINY)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"--pictures: got the file .*, expected a folder"):
        main(Args(pictures=tmp_path / "file"), TINY)
    with pytest.raises(SystemExit, match=r"--pictures: got .*, expected none unless envs or scaling is measured"):
        main(Args(only=("train",), pictures=tmp_path), TINY)


def test_the_help_names_every_measurement(capsys):
    with contextlib.suppress(SystemExit):
        tyro.cli(Args, args=["--help"])
    words = capsys.readouterr().out.replace("│", " ").replace(",", " ").replace(".", " ").split()
    assert set(MEASUREMENTS) <= set(words)


def test_figures_and_pictures_are_written(tmp_path, capsys):
    only = ("predict", "envs", "scaling")
    main(Args(only=only, repeats=2, json=tmp_path / "figures.json", pictures=tmp_path / "pictures"), TINY)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["machine"].keys() == {"processor", "device", "torch", "threads", "date"}
    assert tuple(written["busy_with_others"]) == only
    names = [(row["measurement"], row["name"]) for row in written["rows"]]
    assert names == [
        ("predict", "predict, E=3 B=16"),
        ("envs", "plan per environment, V=1"),
        ("envs", "plan per environment, V=4"),
        ("scaling", "plan, members E = 1"),
        ("scaling", "plan, members E = 2"),
        ("scaling", "plan, width of the hidden layers = 8"),
        ("scaling", "plan, width of the hidden layers = 16"),
    ]
    assert all(row["ours"]["low"] <= row["ours"]["median"] <= row["ours"]["high"] for row in written["rows"])
    assert written["rows"][1]["ratio"] == 1.0
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["environments.png", "scaling.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_without_a_peer_the_rest_goes_on(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mbrl.env", None)  # as if it weren't installed
    main(Args(only=("rollout,train",), repeats=1), TINY)
    output = capsys.readouterr().out
    (line,) = [line for line in output.splitlines() if line.startswith("Not compared with")]
    assert line.startswith("Not compared with mbrl-lib: ")
    assert "To install it: .venv/bin/pip install" in line
    assert output.count("plain loop over members") == 3


def test_the_table_names_ours_once_and_each_rival_with_its_ratio(capsys):
    ours = Timing(0.010, 0.009, 0.012)
    rows = [
        Row("plan", ours, "the bar", Timing.exactly(0.1)),
        Row("plan", ours, "theirs", Timing(0.02, 0.01, 0.03)),
    ]
    print_table({"threads": 2}, rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-4:] == [
        ["plan"],
        ["ours", "10.00", "9.00", "…", "12.00"],
        ["the", "bar", "100.00", "0.10"],
        ["theirs", "20.00", "10.00", "…", "30.00", "0.50"],
    ]


def test_figures_hold_medians_and_spreads_of_both_sides():
    row = Row("plan", Timing(1.0, 0.5, 2.0), "theirs", Timing(4.0, 3.0, 5.0))
    assert figures({"threads": 2}, {"plan": [row]}, {"plan": 0.0}) == {
        "machine": {"threads": 2},
        "busy_with_others": {"plan": 0.0},
        "rows": [
            {
                "measurement": "plan",
                "name": "plan",
                "ours": {"median": 1.0, "low": 0.5, "high": 2.0},
                "against": "theirs",
                "other": {"median": 4.0, "low": 3.0, "high": 5.0},
                "ratio": 0.25,
            }
        ],
    }
