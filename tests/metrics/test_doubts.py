"""Doubts, against a loop over transitions."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from layeredrl.metrics.accuracy import spread
from layeredrl.metrics.doubts import get_doubts
from tests.models.ensembles import make_batch, make_ensemble

UNIT, DIMS = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([True, False, True])


@torch.no_grad()
def moments(model, batch, i, e, s) -> tuple[float, float]:
    """Mean and variance of what member `e` foretells of dimension `s` after transition `i`."""
    mean, weights, std, _ = model.predict(batch.state[i : i + 1], None, batch.action[i : i + 1])
    modes = list(zip(*(x.tolist() for x in (weights[0, e], mean[0, e, :, s], std[0, e, :, s])), strict=True))
    middle = sum(w * m for w, m, _ in modes)
    return middle, sum(w * (v**2 + (m - middle) ** 2) for w, m, v in modes)


@pytest.mark.parametrize("everyone", [[0, 1, 2], [2, 0]], ids=str)
def test_doubts_are_root_mean_squares_over_dimensions_in_their_units(everyone):
    model, batch = make_ensemble(n_models=3, n_modes=2), make_batch(20)
    prediction = model.predict(batch.state, None, batch.action, members=torch.tensor(everyone))
    doubts = get_doubts(prediction, batch.next_state, UNIT, DIMS)
    for i in range(20):
        squares = [0.0, 0.0, 0.0]
        for s in (0, 2):
            opinions, variances = zip(*(moments(model, batch, i, e, s) for e in everyone), strict=True)
            middle = sum(opinions) / len(everyone)
            apart = sum((opinion - middle) ** 2 for opinion in opinions) / len(everyone)
            parts = apart, apart + sum(variances) / len(everyone), (middle - batch.next_state[i, s].item()) ** 2
            squares = [square + part / UNIT[s].item() ** 2 / 2 for square, part in zip(squares, parts, strict=True)]
        got = [doubts.epistemic_std[i].item(), doubts.std[i].item(), doubts.error[i].item()]
        assert got == pytest.approx([math.sqrt(square) for square in squares], rel=1e-3)
    expected = spearmanr(doubts.epistemic_std, doubts.error).statistic
    assert doubts.rank_correlation == pytest.approx(expected)


def test_a_spread_is_a_unit_but_where_nothing_varies():
    value = torch.tensor([[1.0, 9.81], [3.0, 9.81], [8.0, 9.81]])
    std, varies = spread(value)
    assert std.tolist() == pytest.approx([math.sqrt(26 / 3), 1.0])
    assert varies.tolist() == [True, False]
