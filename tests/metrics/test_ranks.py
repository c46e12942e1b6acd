"""Rank metrics against SciPy, scikit-learn and counting pairs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from layeredrl.metrics.ranks import auroc, average_ranks, spearman

# Few values, so that many are tied.
TIED = st.lists(st.integers(-2, 2), min_size=1, max_size=12).map(lambda x: torch.tensor(x, dtype=torch.float32))


@given(TIED)
def test_tied_values_share_the_mean_of_their_ranks(values):
    assert average_ranks(values).tolist() == rankdata(values).tolist()


def test_rank_correlation_is_that_of_scipy_with_and_without_ties():
    for a, b in (torch.randn(2, 60), torch.randint(4, (2, 60)).float()):
        assert spearman(a, b).item() == pytest.approx(spearmanr(a, b).statistic)


def test_rank_correlation_knows_order_only():
    values = torch.rand(30)
    assert spearman(values, values.exp()).item() == pytest.approx(1.0)
    assert spearman(values, -(values**3)).item() == pytest.approx(-1.0)


@pytest.mark.parametrize("n", [1, 5])
def test_rank_correlation_with_a_constant_is_zero(n):
    assert spearman(torch.full((n,), 0.1), torch.rand(n)).item() == 0.0
    assert spearman(torch.rand(n), torch.zeros(n)).item() == 0.0


def test_every_column_is_treated_by_itself():
    a, b = torch.randint(5, (2, 20, 2, 3)).float()
    for function in (spearman, auroc):
        columns = [[function(a[:, i, j], b[:, i, j]).item() for j in range(3)] for i in range(2)]
        torch.testing.assert_close(function(a, b), torch.tensor(columns, dtype=torch.float64))


def test_auroc_is_that_of_scikit_learn():
    inside, outside = torch.randn(40).round(decimals=1), (torch.randn(25) + 0.7).round(decimals=1)
    label = torch.cat([torch.zeros(40), torch.ones(25)])
    assert auroc(inside, outside).item() == pytest.approx(roc_auc_score(label, torch.cat([inside, outside])))


@given(TIED, TIED)
def test_auroc_is_the_share_of_pairs_in_order_with_ties_counting_half(inside, outside):
    pairs = (outside[:, None] > inside).double() + 0.5 * (outside[:, None] == inside).double()
    assert auroc(inside, outside).item() == pytest.approx(pairs.mean().item())


def test_auroc_refuses_what_cannot_be_ranked(unchecked):
    with pytest.raises(ValueError, match="outside: got no scores, expected at least one"):
        auroc(torch.ones(3), torch.ones(0))
    with pytest.raises(ValueError, match="inside: got nan, expected finite scores"):
        auroc(torch.tensor([1.0, torch.nan]), torch.ones(2))
