"""ValueTrainer: values of chains whose returns are known in closed form."""

from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from layeredrl.policies.scaled_value import ScaledValue
from layeredrl.policies.trunks import MLP
from layeredrl.training.value_trainer import ValueTrainer, ValueTrainerConfig
from layeredrl.types import Batch

STATE, ACTION = Box(-torch.inf, torch.inf, (1,)), Box(-1.0, 1.0, (1,))
N = 10
QUICK = ValueTrainerConfig(discount=0.8, n_steps=800, batch_size=32, learning_rate=3e-3, target_rate=0.1)


def chain(*, terminated: bool, scale: float = 1.0) -> Batch:
    """States 0 … 9, one step to the right each, at a reward of 1; the last step ends the episode, or cuts it."""
    place = torch.arange(float(N)).unsqueeze(1)
    last = (place == N - 1).squeeze(1)
    return Batch(
        state=scale * place,
        context=None,
        action=torch.zeros(N, 1),
        # Cut short, the episode goes on in the last state for ever.
        next_state=scale * (place + 1).clamp_max(N if terminated else N - 1),
        terminated=last & terminated,
        reward=torch.ones(N),
        truncated=last & (not terminated),
    )


def fit(data: Batch, config: ValueTrainerConfig = QUICK, seed: int = 0) -> tuple[ScaledValue, float]:
    torch.manual_seed(seed)
    model = ScaledValue(STATE, ACTION, MLP((32, 32), nn.SiLU))
    report = ValueTrainer(model, config, generator=torch.Generator().manual_seed(seed)).fit(data)
    return model, report.td_error


def values(model: ScaledValue, state: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.act({"observations": state}, role="value")[0].squeeze(1)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_values_before_an_end_are_those_of_the_rewards_that_are_left(scale):
    data = chain(terminated=True, scale=scale)
    model, td_error = fit(data)
    expected = (1 - 0.8 ** (N - torch.arange(float(N)))) / (1 - 0.8)
    torch.testing.assert_close(values(model, data.state), expected, rtol=0, atol=0.15)
    assert td_error < 0.1


def test_a_time_limit_is_no_end():
    data = chain(terminated=False)
    model, _ = fit(data)
    torch.testing.assert_close(values(model, data.state), torch.full((N,), 5.0), rtol=0, atol=0.15)


def test_values_stay_in_the_range_of_possible_returns_far_from_the_data():
    model, _ = fit(chain(terminated=True))
    far = values(model, torch.tensor([[-1e4], [1e4], [50.0]]))
    assert ((far >= 0) & (far <= 5.001)).all()


def test_fits_go_on_from_each_other():
    torch.manual_seed(0)
    model, data = ScaledValue(STATE, ACTION, MLP((32, 32), nn.SiLU)), chain(terminated=True)
    trainer = ValueTrainer(model, replace(QUICK, n_steps=100), generator=torch.Generator().manual_seed(0))
    errors = [trainer.fit(data).td_error for _ in range(6)]
    assert errors[-1] < 0.5 * errors[0]


def test_the_generator_decides_and_the_model_is_left_in_evaluation_mode():
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = ScaledValue(STATE, ACTION, MLP((8,), nn.SiLU))
        config = replace(QUICK, n_steps=20)
        ValueTrainer(model, config, generator=torch.Generator().manual_seed(seed)).fit(chain(terminated=True))
        assert not model.training
        results.append(values(model, chain(terminated=True).state))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_data_that_cannot_be_learned_from_are_named_and_change_nothing():
    model = ScaledValue(STATE, ACTION)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data, trainer = chain(terminated=True), ValueTrainer(model, QUICK)
    with pytest.raises(ValueError, match=r"Batch.reward: got None, expected the reward of each transition"):
        trainer.fit(replace(data, reward=None))
    with pytest.raises(ValueError, match=r"Batch.reward: row 3 is nan, expected finite values"):
        trainer.fit(replace(data, reward=data.reward.index_fill(0, torch.tensor(3), float("nan"))))
    with pytest.raises(ValueError, match=r"data: got no transitions"):
        trainer.fit(data[:0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "bad"),
    [("discount", 1.0), ("discount", -0.1), ("target_rate", 0.0), ("target_rate", 1.1), ("n_steps", 0)],
)
def test_bad_settings_are_refused(name, bad):
    with pytest.raises(ValueError, match=rf"{name}: got {bad}, expected"):
        ValueTrainerConfig(**{name: bad})
