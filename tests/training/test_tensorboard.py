"""A TensorBoard server shows what the monitor has written."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import torch

from layeredrl.metrics.open_loop import evaluate_open_loop
from layeredrl.training.collector import Episode
from layeredrl.training.evaluation import cut_episodes, forecast
from layeredrl.training.hyperparameters import flatten
from layeredrl.training.monitor import METRICS, Monitor
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from tests.training.linear_system import make_batch, make_buffer, make_model

PATIENCE = 60.0
PICTURES = (
    "model/calibration",
    "model/error_against_disagreement",
    "model/error_correlation",
    "model/forecast",
    "model/log_std",
    "model/open_loop",
)
Get = Callable[..., Any]


def until(seconds: float, find: Callable[[], Any]) -> Any:
    """What is found, once it is."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, "TensorBoard did not answer in time"
        time.sleep(0.1)
    return found


@contextmanager
def tensorboard(log_dir: Path, output: Path) -> Iterator[Get]:
    """A server on a free port, and what asks it."""
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(log_dir),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    with output.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as server:
        try:
            url = until(PATIENCE, lambda: re.search(r"http://127.0.0.1:\d+/", output.read_text()))[0]
            opener = build_opener(ProxyHandler({}))

            def get(path: str, question: dict[str, Any] | None = None) -> Any:
                data = None if question is None else json.dumps(question).encode()
                request = Request(f"{url}data/plugin/{path}", data, {"Content-Type": "application/json"})
                with opener.open(request, timeout=PATIENCE) as answer:
                    is_picture = answer.headers.get_content_type() == "image/png"
                    return answer.read() if is_picture else json.load(answer)

            yield get
        finally:
            server.terminate()


def write(log_dir: Path) -> None:
    """A fit, a planned episode, what was foretold of it, and an evaluation."""
    monitor = Monitor(log_dir, settings={"planner": "icem", "trainer": {"batch_size": 64}})
    model, buffer = make_model(2, n_modes=2), make_buffer(60)
    report = EnsembleTrainer(model, TrainerConfig(max_epochs=2)).fit(buffer)
    monitor.fit(report, model, 100, buffer[buffer.is_holdout])
    batch, names = make_batch(7), ("value", "act_seconds", "elite_return/iteration_0", "effective_sample_size")
    info = {name: torch.ones(6) for name in names}
    episode = Episode(0, batch.state, batch.action[:-1], torch.ones(6), terminated=True, info=info)
    monitor.episode(episode, 100, horizon=2)
    monitor.evaluation([episode], 100)
    monitor.forecast(forecast(model, episode, horizon=4), 100)
    segments = cut_episodes([episode], 3)
    monitor.open_loop(evaluate_open_loop(model, segments), segments, 100)
    monitor.close()


def test_a_server_shows_scalars_pictures_histograms_and_hyperparameters(tmp_path):
    write(tmp_path / "logs" / "run")
    with tensorboard(tmp_path / "logs", tmp_path / "output.txt") as get:
        tags = until(PATIENCE, lambda: get("scalars/tags").get("run"))
        pictures, histograms = get("images/tags"), get("histograms/tags")
        experiment = get("hparams/experiment", {"experimentName": ""})
        question = {
            "experimentName": "",
            "allowedStatuses": ["STATUS_SUCCESS"],
            "colParams": [{"hparam": info["name"], "includeInResult": True} for info in experiment["hparamInfos"]],
            "startIndex": 0,
            "sliceSize": 10,
        }
        groups = get("hparams/session_groups", question)["sessionGroups"]
        shown = []
        for tag in PICTURES:
            (found,) = get(f"images/images?tag={tag}&run=run")
            shown.append(get(f"images/individualImage?{found['query']}"))
    assert tags.keys() >= {
        *METRICS,
        "elite/member_1",
        "members/weight_entropy",
        "members/disagreement/state_0",
        "one_step/crps/state_0",
        "one_step/sharpness/state_1",
        "one_step/calibration_error/state_0",
        "one_step/epistemic_correlation/state_1",
        "open_loop/rmse/state_0",
        "log_std_at_lower_bound/state_1",
        "planner/effective_sample_size",
        "planner/elite_return/iteration_0",
        "plan/value",
        "plan/realised_return",
    }
    assert pictures["run"].keys() == set(PICTURES)
    assert all(picture.startswith(b"\x89PNG") for picture in shown)
    assert histograms["run"].keys() == {"log_std/state_0", "log_std/state_1", "plan/exploitation_gaps"}
    assert {info["name"]["tag"] for info in experiment["metricInfos"]} == set(METRICS)
    (group,) = groups
    assert group["hparams"] == {"planner": "icem", "trainer.batch_size": 64}
    metrics = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
    assert metrics.keys() == set(METRICS)
    assert metrics["evaluation/return_mean"] == 6
    assert metrics["plan/exploitation_gap"] == pytest.approx(1 - 11 / 6)


def test_settings_are_numbers_and_strings_by_dotted_name():
    settings = {"seed": 3, "lr": 0.1, "task": None, "on": True, "sizes": (8, 8), "in": {"deep": {"x": Path("a")}}}
    flat = flatten(settings)
    assert flat == {"seed": 3, "lr": 0.1, "task": "None", "on": "True", "sizes": "(8, 8)", "in.deep.x": "a"}
    assert isinstance(flat["on"], str)
