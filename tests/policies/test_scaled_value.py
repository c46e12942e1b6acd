"""ScaledValue: standardised inputs, values in units and within limits of their own."""

import copy

import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from layeredrl.policies.networks import Value
from layeredrl.policies.scaled_value import ScaledValue
from layeredrl.policies.trunks import MLP

OBSERVATION, ACTION = Box(-torch.inf, torch.inf, (3,)), Box(-1.0, 1.0, (1,))


def make() -> ScaledValue:
    return ScaledValue(OBSERVATION, ACTION, MLP((16,), nn.SiLU)).eval()


def values(model, observations):
    with torch.no_grad():
        return model.act({"observations": observations}, role="value")[0]


def test_before_its_scales_are_set_it_is_a_plain_value():
    model = make()
    plain = Value(OBSERVATION, ACTION, MLP((16,), nn.SiLU))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    x = torch.randn(5, 3)
    assert torch.equal(values(model, x), values(plain, x))


def test_units_of_the_observations_make_no_difference():
    x = torch.randn(200, 3)
    unit, offset = torch.tensor([1e-3, 1.0, 1e4]), torch.tensor([5.0, 0.0, -1e5])
    model = make()
    twin = copy.deepcopy(model)
    model.set_scales(x, -1.0, 3.0)
    twin.set_scales(x * unit + offset, -1.0, 3.0)
    torch.testing.assert_close(values(model, x), values(twin, x * unit + offset), rtol=1e-2, atol=1e-2)


def test_a_constant_coordinate_is_harmless():
    model, x = make(), torch.randn(50, 3)
    x[:, 1] = 7.0
    model.set_scales(x, 0.0, 1.0)
    assert values(model, x).isfinite().all()


def test_hidden_coordinates_do_not_matter():
    model = ScaledValue(OBSERVATION, ACTION, MLP((16,), nn.SiLU), hidden_states=[1]).eval()
    x = torch.randn(50, 3)
    moved = x + torch.tensor([0.0, 7.0, 0.0])
    assert torch.equal(values(model, x), values(model, moved))
    model.set_scales(x, 0.0, 100.0)
    assert torch.equal(values(model, x), values(model, moved))
    assert not torch.equal(values(model, x), values(model, x.flip(0)))


@pytest.mark.parametrize("bad", [-1, 3])
def test_hidden_coordinates_that_do_not_exist_are_refused(bad):
    with pytest.raises(ValueError, match=rf"hidden_states: got \[{bad}\], expected indices in 0 … 2"):
        ScaledValue(OBSERVATION, ACTION, hidden_states=[0, bad])


def test_values_are_limited_in_evaluation_and_free_in_training():
    model, far = make(), 1e4 * torch.randn(500, 3)
    model.set_scales(torch.randn(50, 3), -2.0, 6.0)
    inside = values(model, far)
    assert inside.min() == -2.0
    assert inside.max() == 6.0
    free = values(model.train(), far)
    assert free.min() < -2.0
    assert free.max() > 6.0
    torch.testing.assert_close(free.clamp(-2.0, 6.0), inside)


def test_scales_are_part_of_the_state_dict():
    model, twin, x = make(), make(), torch.randn(50, 3)
    model.set_scales(3 * x + 1, -2.0, 6.0)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(values(model, x), values(twin, x))


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, torch.inf), (float("nan"), 1.0)])
def test_limits_that_are_none_are_refused(low, high):
    with pytest.raises(ValueError, match=r"low, high: got .*, expected finite numbers in this order"):
        make().set_scales(torch.randn(5, 3), low, high)
