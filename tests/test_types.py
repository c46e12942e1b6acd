"""Batch and Rollout."""

import pytest
import torch

from layeredrl.types import Batch, Rollout


def make_batch(*leading: int, **more) -> Batch:
    return Batch(
        state=torch.randn(*leading, 3),
        context=None,
        action=torch.randn(*leading, 2),
        next_state=torch.randn(*leading, 3),
        terminated=torch.zeros(leading, dtype=torch.bool),
        **more,
    )


def test_indexing_slices_every_present_field():
    batch = make_batch(6, weight=torch.arange(6.0))
    part = batch[torch.tensor([4, 1])]
    assert part.weight.tolist() == [4, 1]
    assert torch.equal(part.state, batch.state[[4, 1]])
    assert part.context is None
    assert len(part) == 2


def test_flatten_joins_leading_dims():
    batch = make_batch(2, 5)
    assert batch.flatten().action.shape == (10, 2)
    assert torch.equal(batch.flatten().next_state[7], batch.next_state[1, 2])


def test_rows_that_do_not_match_are_named(unchecked):
    with pytest.raises(ValueError, match=r"Batch\.weight: got shape \(5,\), expected leading dims \(6,\)"):
        make_batch(6, weight=torch.ones(5))
    with pytest.raises(TypeError, match=r"Batch\.terminated: got list, expected a Tensor"):
        Batch(torch.ones(1, 2), None, torch.ones(1, 1), torch.ones(1, 2), [False])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_check_finite_names_field_and_row(bad):
    batch = make_batch(6)
    batch.check_finite()
    batch.next_state[4, 1] = bad
    with pytest.raises(ValueError, match=r"Batch\.next_state: row 4 is (nan|inf)"):
        batch.check_finite()


def make_rollout(step_mean: torch.Tensor, step_var: torch.Tensor) -> Rollout:
    """A rollout with given moments; its particles don't matter here."""
    b, e, p, h, s = step_mean.shape
    return Rollout(torch.zeros(b, e, p, h + 1, s), torch.zeros(b, e, p, h), lambda: (step_mean, step_var))


def test_epistemic_variance_is_unbiased_for_members_that_differ():
    """Members e have means μ_e and gains σ_e on shared noise; only Var(μ) is ignorance."""
    mu, sigma = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    noise = torch.randn(20_000, 1, 4)
    step_mean = (mu[:, None] + sigma[:, None] * noise)[..., None, None]
    rollout = make_rollout(step_mean, torch.zeros_like(step_mean))
    estimate = rollout.state_epistemic_var[:, 1, 0]
    # Clamping at zero can only push the mean up, and rarely bites here.
    assert estimate.mean().item() == pytest.approx(mu.var(correction=0).item(), rel=0.1)
    assert estimate.min() >= 0


def test_variance_within_is_unbiased():
    noise = 2.0 * torch.randn(20_000, 2, 3, 1, 1)
    rollout = make_rollout(noise, torch.full_like(noise, 0.5))
    assert rollout.state_aleatoric_var[:, 1].mean().item() == pytest.approx(4.5, rel=0.05)


def test_one_particle_sums_its_one_step_variances():
    step_var = torch.rand(2, 3, 1, 5, 4)
    rollout = make_rollout(torch.randn(2, 3, 1, 5, 4), step_var)
    assert torch.allclose(rollout.state_var[:, :, 5], step_var[:, :, 0].sum(dim=2))
    assert torch.equal(rollout.state_var[:, :, 0], torch.zeros(2, 3, 4))
