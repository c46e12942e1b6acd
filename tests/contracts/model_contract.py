"""What every dynamics model obeys. An implementation joins by subclassing and giving `make`."""

import copy
from abc import ABC, abstractmethod

import pytest
import torch
from torch import Tensor

from layeredrl.models.model import Model
from layeredrl.models.propagation import MERGE
from layeredrl.types import Batch, ModelStep, Rollout
from tests.models.ensembles import draw


class ModelContract(ABC):
    @abstractmethod
    def make(self) -> Model:
        """A fresh model with `state_space`, `context_space` and `action_space`."""

    def query(self, model: Model, n: int) -> tuple:
        return tuple(draw(space, n) for space in (model.state_space, model.context_space, model.action_space))

    def start(self, model: Model, n: int, horizon: int) -> tuple:
        state, context, _ = self.query(model, n)
        return state, context, draw(model.action_space, n, horizon)

    def batch(self, model: Model, n: int) -> Batch:
        state, context, action = self.query(model, n)
        return Batch(state, context, action, state + torch.randn_like(state), torch.rand(n) < 0.5)

    def test_shapes_are_those_of_the_design(self):
        model = self.make()
        e, p, s = model.n_models, model.n_particles_per_model, model.state_space.shape[0]
        state, context, action = self.query(model, 6)
        mean, weights, std, term_prob = model.predict(state, context, action)
        assert mean.shape == std.shape == (*weights.shape, s)
        assert weights.shape[:2] == (6, e)
        assert term_prob.shape == (6,)
        assert model.sample(state, context, action).shape == (6, s)
        log_prob, log_prob_term, info = model.get_log_prob(state, context, action, state)
        assert log_prob.shape == log_prob_term.shape == (6,)
        assert info["means"].shape == (6, e, s)
        for propagation in MERGE:
            rollout = model.rollout(state, context, draw(model.action_space, 6, 4), propagation=propagation)
            assert rollout.state.shape == (6, e, p, 5, s)
            assert rollout.term_prob.shape == (6, e, p, 4)
            assert rollout.state_mean.shape == rollout.state_var.shape == (6, e, 5, s)
            assert rollout.state_epistemic_var.shape == rollout.state_aleatoric_var.shape == (6, 5, s)
            assert torch.equal(rollout.state[..., 0, :], state[:, None, None].expand(6, e, p, s))

    @pytest.mark.parametrize("deterministic", [False, True], ids=["drawn", "mean"])
    @pytest.mark.parametrize("propagation", MERGE)
    def test_unroll_yields_the_steps_of_rollout(self, propagation, deterministic):
        model = self.make()
        inputs, members = self.start(model, 5, horizon=3), torch.tensor([model.n_models - 1])
        for more in ({}, {"members": members}):
            rollout, steps = (
                roll(
                    *inputs,
                    deterministic,
                    propagation=propagation,
                    generator=torch.Generator().manual_seed(3),
                    **more,
                )
                for roll in (model.rollout, model.unroll)
            )
            assert_steps_are_those_of(rollout, list(steps))

    @pytest.mark.parametrize("propagation", MERGE)
    def test_rows_that_are_read_at_a_time_make_no_difference(self, propagation):
        model = self.make()
        inputs = self.start(model, 6, horizon=3)
        whole, *others = (
            list(
                model.unroll(
                    *inputs,
                    propagation=propagation,
                    max_rows=max_rows,
                    generator=torch.Generator().manual_seed(3),
                )
            )
            for max_rows in (None, 1, 7, 1000)
        )
        for steps in others:
            for step, expected in zip(steps, whole, strict=True):
                torch.testing.assert_close(tensors_of(step), tensors_of(expected), rtol=1e-4, atol=1e-4)

    def test_weights_and_probabilities_are_such(self):
        model = self.make()
        prediction = model.predict(*self.query(model, 50))
        torch.testing.assert_close(prediction.weights.sum(dim=-1), torch.ones(50, model.n_models))
        assert (prediction.std > 0).all()
        assert ((prediction.term_prob >= 0) & (prediction.term_prob <= 1)).all()

    def test_density_of_own_samples_exceeds_that_of_far_states(self):
        model = self.make()
        inputs = self.query(model, 200)
        sample = model.sample(*inputs)
        near, far = (model.get_log_prob(*inputs, x)[0] for x in (sample, sample + 1e3))
        assert near.isfinite().all()
        assert (near > far).all()
        prob = model.get_prob(*inputs, sample)[0]
        torch.testing.assert_close(prob, near.exp(), rtol=1e-3, atol=0.0)

    def test_a_generator_makes_draws_reproducible_and_spares_the_global_one(self):
        model = self.make()
        inputs = self.query(model, 5)
        random_state = torch.get_rng_state()
        first, second = (model.sample(*inputs, generator=torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, second)
        assert torch.equal(random_state, torch.get_rng_state())

    def test_state_dict_round_trips_everything(self):
        model, other = self.make(), self.make()
        model.set_n_total_env_steps(123)
        batch = self.batch(model, 30)
        model.learn([batch])
        other.load_state_dict(model.state_dict())
        inputs = (batch.state, batch.context, batch.action)
        assert int(other.n_total_env_steps) == 123
        assert torch.equal(model.elites, other.elites)
        for got, expected in zip(other.predict(*inputs), model.predict(*inputs), strict=True):
            assert torch.equal(got, expected)

    def test_copies_are_independent(self):
        model = self.make()
        twin = copy.deepcopy(model)
        inputs = self.query(model, 4)
        before = twin.predict(*inputs).mean
        model.learn([self.batch(model, 30)] * 3)
        assert torch.equal(twin.predict(*inputs).mean, before)

    def test_learning_lowers_the_loss(self):
        model = self.make()
        batch = self.batch(model, 60)
        model.update_statistics(batch)
        before = model.loss(batch)
        model.learn([batch] * 60)
        assert model.loss(batch) < before

    def test_gradients_reach_every_parameter(self):
        model = self.make()
        model.loss(self.batch(model, 30)).backward()
        assert all(parameter.grad is not None for parameter in model.get_parameters())


STEP_FIELDS = ("state", "next_state", "mean", "var", "term_prob")


def tensors_of(step: ModelStep) -> dict[str, Tensor]:
    return {name: getattr(step, name) for name in STEP_FIELDS}


def assert_steps_are_those_of(rollout: Rollout, steps: list[ModelStep]) -> None:
    """P is 1 in the steps where all particles of a member coincide."""
    horizon = rollout.term_prob.shape[-1]
    assert len(steps) == horizon
    for t, step in enumerate(steps):
        recorded = {
            "state": rollout.state[..., t, :],
            "next_state": rollout.state[..., t + 1, :],
            "mean": rollout.step_mean[..., t, :],
            "var": rollout.step_var[..., t, :],
            "term_prob": rollout.term_prob[..., t],
        }
        n_particles = rollout.step_mean.shape[2]
        for name, got in tensors_of(step).items():
            expected = recorded[name]
            assert got.shape[1] == n_particles, name
            assert torch.equal(got.movedim(2, 0).expand_as(expected), expected), name
