"""Dynamics and rewards obey the contract of what a trainer fits."""

from layeredrl.models.reward_model import RewardModel
from tests.contracts.ensemble_contract import EnsembleContract
from tests.models.ensembles import ACTION, CONTEXT, DISCRETE, STATE, make_ensemble


class TestDynamics(EnsembleContract):
    def make(self):
        return make_ensemble(n_models=3)


class TestMixtureDynamicsWithContext(EnsembleContract):
    def make(self):
        return make_ensemble(n_models=4, n_modes=2, context_space=CONTEXT, action_space=DISCRETE)


class TestRewards(EnsembleContract):
    def make(self):
        return RewardModel(STATE, None, ACTION, n_models=3, hidden_sizes=(16,))


class TestRewardsWithContext(EnsembleContract):
    def make(self):
        return RewardModel(STATE, CONTEXT, DISCRETE, n_models=4, hidden_sizes=(16,), hidden_states=(1,))
