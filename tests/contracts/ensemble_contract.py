"""What everything obeys that `EnsembleTrainer` fits. An implementation joins by subclassing and giving `make`."""

from abc import ABC, abstractmethod
from dataclasses import replace

import pytest
import torch

from layeredrl.models.ensemble import Ensemble
from layeredrl.types import Batch
from tests.models.ensembles import make_batch


class EnsembleContract(ABC):
    @abstractmethod
    def make(self) -> Ensemble:
        """A fresh ensemble of three members or more, for `tests.models.ensembles.STATE`."""

    def batch(self, model: Ensemble, n: int = 40) -> Batch:
        return make_batch(n, model.context_space, model.action_space, reward=5.0 * torch.randn(n) - 20.0)

    def test_it_is_made_in_evaluation_mode_with_all_members_as_elites(self):
        model = self.make()
        assert not any(module.training for module in model.modules())
        assert model.elites.tolist() == list(range(model.n_models))

    def test_elites_are_kept_in_the_state(self):
        model, other = self.make(), self.make()
        model.set_elites(torch.tensor([2, 0]))
        other.load_state_dict(model.state_dict())
        assert model.elites.tolist() == other.elites.tolist() == [0, 2]

    def test_state_dict_round_trips_everything(self):
        model, other = self.make(), self.make()
        batch = self.batch(model)
        model.set_statistics(batch)
        other.load_state_dict(model.state_dict())
        for got, expected in zip(other.get_member_scores(batch), model.get_member_scores(batch), strict=True):
            assert torch.equal(got, expected)

    def test_a_members_loss_moves_that_member_alone(self):
        model = self.make()
        model.get_member_losses(self.batch(model))[1].backward()
        for parameter in model.get_parameters():
            moved = parameter.grad.flatten(1).abs().sum(dim=1) > 0
            assert not moved[[0, *range(2, model.n_models)]].any()
        assert any(parameter.grad[1].abs().sum() > 0 for parameter in model.get_parameters())

    def test_member_tensors_are_the_members_themselves(self):
        model, batch = self.make(), self.batch(self.make())
        before = model.get_member_scores(batch).loss
        for tensor in model.get_member_tensors().values():
            assert len(tensor) == model.n_models
            tensor[1] = tensor[0]
        after = model.get_member_scores(batch).loss
        assert after[1] != before[1]
        torch.testing.assert_close(after, before[[0, 0, *range(2, model.n_models)]])

    def test_a_member_that_diverged_has_scores_that_are_not_finite(self):
        model = self.make()
        batch = self.batch(model)
        before = model.get_member_scores(batch).loss
        for tensor in model.get_member_tensors().values():
            tensor[1] = torch.nan
        after = model.get_member_scores(batch).loss
        assert not after[1].isfinite()
        others = [0, *range(2, model.n_models)]
        assert torch.equal(after[others], before[others])

    def test_the_loss_that_scores_tell_is_the_one_that_training_minimises(self):
        model = self.make()
        batch = self.batch(model)
        scores = model.get_member_scores(batch)
        torch.testing.assert_close(scores.loss, model.get_member_losses(batch))
        assert scores.nll.shape == (model.n_models,)
        assert scores.mse.shape[0] == model.n_models

    def test_each_member_can_have_a_set_of_its_own(self):
        model = self.make()
        batch = self.batch(model)
        index = torch.randint(40, (model.n_models, 10))
        losses = model.get_member_losses(batch[index])
        for member, own in enumerate(index):
            torch.testing.assert_close(losses[member], model.get_member_losses(batch[own])[member])
        with pytest.raises(ValueError, match=rf"batch: got 2 sets of transitions, expected {model.n_models}"):
            model.get_member_losses(batch[index[:2]])

    def test_transitions_masked_out_take_no_part(self):
        model = self.make()
        batch, mask = self.batch(model), torch.arange(40) < 25
        losses = model.get_member_losses(replace(batch, mask=mask))
        torch.testing.assert_close(losses, model.get_member_losses(batch[mask]))
        model.set_statistics(replace(batch, mask=mask))
        masked = model.get_member_scores(batch).loss
        model.set_statistics(batch[mask])
        torch.testing.assert_close(masked, model.get_member_scores(batch).loss)

    def test_statistics_forget_what_they_were_taken_from_before(self):
        model = self.make()
        first, second = self.batch(model), self.batch(model)
        model.set_statistics(second)
        expected = {name: value.clone() for name, value in model.state_dict().items()}
        model.set_statistics(first)
        model.set_statistics(second)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, expected[name])

    @pytest.mark.parametrize("name", ["state", "action", "next_state", "reward"])
    def test_data_that_are_not_finite_are_refused_by_field_and_row(self, name):
        model = self.make()
        batch = self.batch(model)
        if not getattr(batch, name).is_floating_point():
            return
        getattr(batch, name)[7] = torch.nan
        with pytest.raises(ValueError, match=rf"Batch\.{name}: row 7 is nan, expected finite values"):
            model.check_batch(batch)

    def test_data_of_other_spaces_are_refused(self, unchecked):
        model = self.make()
        batch = self.batch(model)
        wrong = replace(batch, state=batch.state[:, :2], next_state=batch.next_state[:, :2])
        with pytest.raises(ValueError, match=r"Batch\.state: got shape \(40, 2\), expected \(…, 3\)"):
            model.check_batch(wrong)
