"""Information is that of Gaussians in closed form, and knows no units."""

import pytest
import torch
from torch.distributions import Independent, Normal

from layeredrl.metrics.information import epistemic_information
from layeredrl.metrics.ranks import auroc


def test_it_is_the_entropy_of_the_ensemble_less_that_of_its_members():
    torch.manual_seed(0)
    epistemic_var, aleatoric_var = torch.rand(7, 3), torch.rand(7, 3) + 0.1
    entropy = [
        Independent(Normal(torch.zeros(7, 3), var.sqrt()), 1).entropy()
        for var in (epistemic_var + aleatoric_var, aleatoric_var)
    ]
    torch.testing.assert_close(epistemic_information(epistemic_var, aleatoric_var), entropy[0] - entropy[1])


def test_a_sample_of_the_next_state_tells_as_much_about_a_gaussian_mean():
    """E log p(y | m) / p(y) over draws, in two dimensions."""
    torch.manual_seed(1)
    epistemic_std, aleatoric_std = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 0.7])
    mean = epistemic_std * torch.randn(100_000, 2)
    state = mean + aleatoric_std * torch.randn(100_000, 2)
    total_std = (epistemic_std.square() + aleatoric_std.square()).sqrt()
    told = Normal(mean, aleatoric_std).log_prob(state) - Normal(torch.zeros(2), total_std).log_prob(state)
    got = epistemic_information(epistemic_std.square(), aleatoric_std.square())
    assert got.item() == pytest.approx(told.sum(dim=-1).mean().item(), abs=0.02)


def test_units_do_not_matter_and_agreement_tells_nothing():
    torch.manual_seed(2)
    epistemic_var, aleatoric_var = torch.rand(5, 4), torch.rand(5, 4) + 0.1
    unit = torch.tensor([1e-3, 1.0, 10.0, 1e3])
    torch.testing.assert_close(
        epistemic_information(unit * epistemic_var, unit * aleatoric_var),
        epistemic_information(epistemic_var, aleatoric_var),
    )
    assert (epistemic_information(torch.zeros(5, 4), aleatoric_var) == 0).all()


def test_a_noisy_dimension_does_not_hide_where_members_have_never_been():
    torch.manual_seed(3)
    aleatoric_var = torch.tensor([1e4, 1e-2])
    inside = torch.rand(1000, 2) * aleatoric_var
    outside = inside * torch.tensor([1.0, 100.0])
    scores = [epistemic_information(var, aleatoric_var.expand(1000, 2)) for var in (inside, outside)]
    assert auroc(*scores) > 0.9
    assert auroc(inside.mean(dim=-1), outside.mean(dim=-1)) < 0.6


def test_members_without_noise_are_refused():
    with pytest.raises(ValueError, match=r"aleatoric_var: got 0\.0, expected positive"):
        epistemic_information(torch.ones(2, 2), torch.tensor([1.0, 0.0]).expand(2, 2))
