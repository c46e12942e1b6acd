"""What a report promises, whatever the data: every figure is a finite number."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layeredrl.metrics.one_step import evaluate_one_step
from layeredrl.metrics.open_loop import evaluate_open_loop
from layeredrl.metrics.segments import cut_segments
from layeredrl.types import Batch
from tests.metrics.figures import figures
from tests.models.ensembles import ACTION, draw, make_batch, make_ensemble, make_fixed

SIZES = st.integers(1, 3)


def stream(n, constant):
    """One episode whose dimensions are ordinary, but for those that are `constant`."""
    state = torch.randn(n + 1, 3)
    state[:, constant] = 9.81
    return Batch(state[:-1], None, draw(ACTION, n), state[1:], torch.zeros(n, dtype=torch.bool))


@settings(max_examples=10)
@given(n=st.integers(3, 6), e=SIZES, m=SIZES, constant=st.lists(st.sampled_from([0, 1, 2]), unique=True))
def test_constant_dimensions_make_no_figure_infinite(n, e, m, constant):
    batch = stream(n, constant)
    learned = make_ensemble(n_models=e, n_modes=m, statistics=False)
    learned.set_statistics(batch)
    exact = make_fixed(*[{"offset": [0.0] * m, "std": 0.1}] * e, n_modes=m)
    for model in (learned, exact):
        reports = evaluate_one_step(model, batch), evaluate_open_loop(model, cut_segments(batch, 3), n_particles=2)
        for report in reports:
            infinite = [name for name, value in figures(report).items() if not value.isfinite().all()]
            assert not infinite


def test_constants_foretold_exactly_are_explained():
    quality = evaluate_one_step(make_fixed({"offset": 0.0, "std": 0.1}), stream(5, [1]))
    assert quality.ensemble.explained_variance[1] == 1.0
    assert quality.ensemble.rmse[1] == 0.0


def test_a_report_of_one_row_is_finite():
    quality = evaluate_one_step(make_ensemble(n_models=2), make_batch(1))
    assert all(value.isfinite().all() for value in figures(quality).values())


def test_reports_are_plain_json():
    quality = evaluate_open_loop(make_ensemble(n_models=2), cut_segments(stream(8, [0]), 4))
    report = json.loads(json.dumps(quality.to_json(), allow_nan=False))
    assert report["n_rows"] == 2
    assert report["ensemble"]["nll"] == quality.ensemble.nll.tolist()
    assert report["members"]["rmse"][3][1][2] == quality.members.rmse[3, 1, 2].item()
    assert len(report["coverage_levels"]) == quality.ensemble.coverage.shape[-1] == 19
    assert report["coverage_levels"][-1] == pytest.approx(0.95)
