"""Monitor: what was written is what TensorBoard reads."""

import importlib.util
import warnings

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from layeredrl.metrics.one_step import evaluate_one_step
from layeredrl.metrics.open_loop import evaluate_open_loop
from layeredrl.training.collector import Episode
from layeredrl.training.diagnosis import diagnose
from layeredrl.training.evaluation import cut_episodes, forecast
from layeredrl.training.monitor import Monitor
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from layeredrl.training.value_trainer import ValueReport
from tests.training.linear_system import make_batch, make_buffer, make_model, make_reward_model


def read(log_dir) -> EventAccumulator:
    events = EventAccumulator(str(log_dir), size_guidance={"images": 0, "scalars": 0, "histograms": 0})
    events.Reload()
    return events


def scalars(log_dir) -> dict[str, list[tuple[int, float]]]:
    events = read(log_dir)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def make_episode(length: int = 6, *, terminated: bool = False, planned: bool = True) -> Episode:
    batch = make_batch(length + 1)
    info = {"act_seconds": torch.linspace(0.1, 0.5, length)}
    if planned:
        info["value"] = 10.0 * torch.arange(length)
    reward = torch.arange(1.0, length + 1)
    return Episode(0, batch.state, batch.action[:-1], reward, terminated=terminated, info=info)


def write_episode(tmp_path, episode: Episode, **settings) -> dict[str, float]:
    monitor = Monitor(tmp_path)
    monitor.episode(episode, 40, **settings)
    monitor.close()
    written = scalars(tmp_path)
    assert all(len(values) == 1 and values[0][0] == 40 for values in written.values())
    return {tag: values[0][1] for tag, values in written.items()}


def test_a_fit_writes_the_scores_of_every_member(tmp_path):
    model, buffer = make_model(2), make_buffer(60)
    report = EnsembleTrainer(model, TrainerConfig(max_epochs=3)).fit(buffer)
    monitor = Monitor(tmp_path)
    monitor.fit(report, model, 200)
    monitor.close()
    expected = {
        "fit/epochs": 3.0,
        "fit/transitions": report.n_train,
        "fit/holdout_nll": report.holdout.nll.mean(),
        "time/fit_seconds": report.seconds,
        "elite/member_0": 1.0,
        "elite/member_1": 1.0,
    }
    for name, scores in (("train", report.train), ("holdout", report.holdout)):
        for member in range(2):
            expected[f"{name}_nll/member_{member}"] = scores.nll[member]
            expected[f"{name}_rmse/member_{member}"] = scores.mse[member].mean().sqrt()
    for dim in range(2):
        expected[f"target_scale/state_{dim}"] = model.members.targets.scale[dim]
    written = scalars(tmp_path)
    assert written.keys() == expected.keys()
    for tag, value in expected.items():
        assert written[tag] == [(200, pytest.approx(float(value)))], tag


def test_the_fit_of_a_reward_model_stands_beside_that_of_the_dynamics(tmp_path):
    dynamics, rewards, buffer = make_model(2), make_reward_model(2), make_buffer(60)
    monitor = Monitor(tmp_path)
    reports = [EnsembleTrainer(model, TrainerConfig(max_epochs=2)).fit(buffer) for model in (dynamics, rewards)]
    monitor.fit(reports[0], dynamics, 200)
    monitor.fit(reports[1], rewards, 200)
    monitor.close()
    expected = {
        "reward_scale": buffer[:].reward[~buffer.is_holdout].std(correction=0),
        "fit/reward_epochs": 2.0,
        "fit/reward_transitions": reports[1].n_train,
        "fit/reward_holdout_nll": reports[1].holdout.nll.mean(),
        "time/reward_fit_seconds": reports[1].seconds,
        "reward_elite/member_0": 1.0,
        "reward_elite/member_1": 1.0,
    }
    for name, scores in (("train", reports[1].train), ("holdout", reports[1].holdout)):
        for member in range(2):
            expected[f"reward_{name}_nll/member_{member}"] = scores.nll[member]
            expected[f"reward_{name}_rmse/member_{member}"] = scores.mse[member, 0].sqrt()
    written = scalars(tmp_path)
    assert {tag for tag in written if "reward" in tag} == expected.keys()
    for tag, value in expected.items():
        assert written[tag] == [(200, pytest.approx(float(value)))], tag
    assert written["holdout_nll/member_1"] == [(200, pytest.approx(float(reports[0].holdout.nll[1])))]


def test_elites_are_shown_over_time_and_alone_count_for_the_likelihood(tmp_path):
    model, buffer, monitor = make_model(3), make_buffer(60), Monitor(tmp_path)
    trainer = EnsembleTrainer(model, TrainerConfig(max_epochs=2, n_elites=1))
    reports = []
    for step in (100, 200):
        reports.append(trainer.fit(buffer))
        monitor.fit(reports[-1], model, step)
        model.set_elites(torch.tensor([0, 1, 2]))  # whatever becomes of them later
    monitor.close()
    written = scalars(tmp_path)
    for i, report in enumerate(reports):
        best = int(report.holdout.loss.argmin())
        assert [written[f"elite/member_{member}"][i][1] for member in range(3)] == [m == best for m in range(3)]
        assert written["fit/holdout_nll"][i][1] == pytest.approx(float(report.holdout.nll[best]))


def test_with_held_out_data_a_fit_writes_a_diagnosis(tmp_path):
    model, buffer = make_model(3, n_modes=2), make_buffer(60)
    report, holdout = EnsembleTrainer(model, TrainerConfig(max_epochs=2)).fit(buffer), buffer[buffer.is_holdout]
    monitor = Monitor(tmp_path)
    monitor.fit(report, model, 200, holdout)
    monitor.close()
    diagnosis = diagnose(model, holdout)
    expected = {
        "members/error_correlation": diagnosis.mean_correlation,
        "members/weight_entropy": diagnosis.weight_entropy,
    }
    for dim in range(2):
        expected[f"members/disagreement/state_{dim}"] = diagnosis.disagreement[dim]
        expected[f"log_std_at_lower_bound/state_{dim}"] = diagnosis.at_lower.share[dim]
        expected[f"log_std_at_upper_bound/state_{dim}"] = diagnosis.at_upper.share[dim]
    written = scalars(tmp_path)
    assert {tag for tag in written if tag.startswith(("members/", "log_std"))} == expected.keys()
    for tag, value in expected.items():
        assert written[tag] == [(200, pytest.approx(float(value)))], tag
    events = read(tmp_path)
    shown = {"error_correlation", "log_std", "calibration", "error_against_disagreement"}
    assert set(events.Tags()["images"]) == {f"model/{name}" for name in shown}
    assert set(events.Tags()["histograms"]) == {"log_std/state_0", "log_std/state_1"}
    histogram = events.Histograms("log_std/state_1")[0].histogram_value
    log_std = diagnosis.log_std[..., 1]
    assert (histogram.num, histogram.min) == (log_std.numel(), pytest.approx(float(log_std.min())))


def test_with_held_out_data_a_fit_writes_how_well_the_elites_foretell_them(tmp_path):
    model, buffer = make_model(3), make_buffer(60)
    report = EnsembleTrainer(model, TrainerConfig(max_epochs=2, n_elites=2)).fit(buffer)
    holdout = buffer[buffer.is_holdout]
    monitor = Monitor(tmp_path)
    monitor.fit(report, model, 200, holdout)
    monitor.close()
    quality = evaluate_one_step(model, holdout, members=model.elites)
    expected = {"one_step/calibration_error_mean": quality.ensemble.calibration_error.mean()}
    for dim in range(2):
        expected[f"one_step/epistemic_correlation/state_{dim}"] = quality.epistemic_correlation[dim]
        for name in ("rmse", "crps", "sharpness", "calibration_error"):
            expected[f"one_step/{name}/state_{dim}"] = getattr(quality.ensemble, name)[dim]
    written = scalars(tmp_path)
    assert {tag for tag in written if tag.startswith("one_step")} == expected.keys()
    for tag, value in expected.items():
        assert written[tag] == [(200, pytest.approx(float(value)))], tag


def test_of_many_held_out_transitions_some_are_judged(tmp_path, monkeypatch, unchecked):
    model, buffer = make_model(2), make_buffer(60)
    report, n_judged = EnsembleTrainer(model, TrainerConfig(max_epochs=1)).fit(buffer), []

    def note(model, batch, **more):
        n_judged.append(len(batch))
        return evaluate_one_step(model, batch, **more)

    monkeypatch.setattr("layeredrl.training.monitor.evaluate_one_step", note)
    monitor = Monitor(tmp_path)
    monitor.fit(report, model, 200, make_batch(4500))
    monitor.close()
    assert n_judged == [1500]


def test_open_loop_errors_stand_beside_what_was_predicted(tmp_path):
    model = make_model(2)
    segments = cut_episodes([make_episode(20)], 5)
    quality = evaluate_open_loop(model, segments)
    monitor = Monitor(tmp_path)
    monitor.open_loop(quality, segments, 300)
    monitor.close()
    written = scalars(tmp_path)
    expected = {
        f"open_loop/{name}/state_{dim}": getattr(quality.ensemble, name)[:, dim].mean()
        for name in ("rmse", "sharpness", "calibration_error")
        for dim in range(2)
    }
    assert written == {tag: [(300, pytest.approx(float(value)))] for tag, value in expected.items()}
    assert read(tmp_path).Tags()["images"] == ["model/open_loop"]


def test_one_member_of_one_mode_has_nothing_to_be_compared_with(tmp_path):
    model, buffer = make_model(1), make_buffer(60)
    report = EnsembleTrainer(model, TrainerConfig(max_epochs=2)).fit(buffer)
    monitor = Monitor(tmp_path)
    monitor.fit(report, model, 200, buffer[buffer.is_holdout])
    monitor.close()
    assert not [tag for tag in scalars(tmp_path) if tag.startswith("members/")]
    assert set(read(tmp_path).Tags()["images"]) == {"model/log_std", "model/calibration"}
    assert not [tag for tag in scalars(tmp_path) if "epistemic" in tag]


def test_a_member_that_broke_down_is_left_out_of_histograms(tmp_path):
    model, buffer = make_model(2), make_buffer(60)
    report = EnsembleTrainer(model, TrainerConfig(max_epochs=2)).fit(buffer)
    with torch.no_grad():
        model.members.nets.members.net[-2].bias[0] = torch.nan
    monitor = Monitor(tmp_path)
    monitor.fit(report, model, 200, buffer[buffer.is_holdout])
    monitor.close()
    n_held_out = int(buffer.is_holdout.sum())
    assert "one_step/crps/state_0" in scalars(tmp_path)
    assert "one_step/epistemic_correlation/state_0" not in scalars(tmp_path)
    assert read(tmp_path).Histograms("log_std/state_0")[0].histogram_value.num == n_held_out


def test_a_fit_of_values_writes_how_consistent_they_are(tmp_path):
    monitor = Monitor(tmp_path)
    monitor.values(ValueReport(td_error=0.25, seconds=1.5), 40)
    monitor.close()
    assert scalars(tmp_path) == {"value/td_error": [(40, 0.25)], "time/value_fit_seconds": [(40, 1.5)]}


def test_an_episode_writes_return_and_length(tmp_path):
    written = write_episode(tmp_path, make_episode(planned=False), horizon=3)
    assert written == {"episode/return": 21, "episode/length": 6}


def test_what_a_plan_promised_stands_beside_what_it_got(tmp_path):
    written = write_episode(tmp_path, make_episode(terminated=True), horizon=2)
    # Rewards 1 … 6; nothing comes after the end.
    assert written["plan/realised_return"] == pytest.approx((3 + 5 + 7 + 9 + 11 + 6) / 6)
    assert written["plan/value"] == 25
    assert written["plan/exploitation_gap"] == pytest.approx(25 - 41 / 6)
    assert written["time/plan_seconds"] == pytest.approx(0.26)
    assert written.keys() >= {"episode/return", "episode/length"}


def test_each_plan_s_gap_is_in_a_histogram(tmp_path):
    write_episode(tmp_path, make_episode(terminated=True), horizon=2)
    histogram = read(tmp_path).Histograms("plan/exploitation_gaps")[0].histogram_value
    gaps = [value - got for value, got in zip((0, 10, 20, 30, 40, 50), (3, 5, 7, 9, 11, 6), strict=True)]
    assert (histogram.num, histogram.min, histogram.max) == (6, min(gaps), max(gaps))


def test_the_planners_diagnostics_are_shown_as_means_over_the_episode(tmp_path):
    episode = make_episode(terminated=True)
    episode.info["elite_return/iteration_0"] = torch.arange(6.0)
    episode.info["plan_age"] = episode.info["terminal_value"] = torch.zeros(6)
    written = write_episode(tmp_path, episode, horizon=2)
    assert {tag: value for tag, value in written.items() if tag.startswith("planner/")} == {
        "planner/elite_return/iteration_0": 2.5
    }


def test_an_evaluation_writes_the_mean_and_the_worst_return(tmp_path):
    monitor = Monitor(tmp_path)
    monitor.evaluation([make_episode(3), make_episode(6)], 40)
    monitor.close()
    assert scalars(tmp_path) == {"evaluation/return_mean": [(40, 13.5)], "evaluation/return_min": [(40, 6.0)]}


def test_plans_that_a_time_limit_cut_short_are_not_compared(tmp_path):
    written = write_episode(tmp_path, make_episode(), horizon=3, discount=0.5)
    assert written["plan/value"] == 15
    returns = [r + (r + 1) / 2 + (r + 2) / 4 for r in (1, 2, 3, 4)]
    assert written["plan/realised_return"] == pytest.approx(sum(returns) / 4)


def test_an_episode_shorter_than_the_horizon_leaves_nothing_to_compare(tmp_path):
    written = write_episode(tmp_path, make_episode(2), horizon=5)
    assert written.keys() == {"episode/return", "episode/length", "time/plan_seconds"}


def test_a_forecast_writes_spread_and_a_picture(tmp_path):
    monitor = Monitor(tmp_path)
    results = []
    for step in (100, 200):
        results.append(forecast(make_model(n_particles_per_model=2), make_episode(), horizon=4))
        monitor.forecast(results[-1], step)
    monitor.close()
    written = scalars(tmp_path)
    assert written.keys() == {f"{kind}_std/state_{dim}" for kind in ("epistemic", "aleatoric") for dim in (0, 1)}
    for dim in (0, 1):
        for kind in ("epistemic", "aleatoric"):
            values = [float(getattr(result, f"{kind}_std")[dim]) for result in results]
            steps_and_values = list(zip((100, 200), values, strict=True))
            assert written[f"{kind}_std/state_{dim}"] == [(step, pytest.approx(x)) for step, x in steps_and_values]
    events = read(tmp_path)
    assert events.Tags()["images"] == ["model/forecast"]
    pictures = events.Images("model/forecast")
    assert [picture.step for picture in pictures] == [100, 200]
    assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
    assert pictures[0].width > 300


def test_without_matplotlib_there_is_one_warning_and_no_picture(tmp_path, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else original(name, *more)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor = Monitor(tmp_path)
        result = forecast(make_model(), make_episode(), horizon=4)
        monitor.forecast(result, 100)
        monitor.forecast(result, 200)
        monitor.episode(make_episode(), 200, horizon=3)
        segments = cut_episodes([make_episode()], 3)
        monitor.open_loop(evaluate_open_loop(make_model(), segments), segments, 200)
        monitor.close()
    assert [str(warning.message) for warning in caught] == [
        "matplotlib is not installed: TensorBoard will show no pictures"
    ]
    events = read(tmp_path)
    assert events.Tags()["images"] == []
    assert len(events.Scalars("aleatoric_std/state_0")) == 2
