"""The benchmark of policies runs, and has a row per mixin."""

from experiments.benchmark_policy import CASES, policy_rows


def test_every_mixin_has_a_row() -> None:
    rows = policy_rows(n_repetitions=2)
    assert [row.mixin for row in rows] == [case[0] for case in CASES]
    assert all(row.ratio > 0 for row in rows)
