"""Ensembles of every kind obey the contract of models."""

import torch
from torch import nn

from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from tests.contracts.model_contract import ModelContract
from tests.models.ensembles import CONTEXT, DISCRETE, NESTED, make_batch, make_ensemble
from tests.models.rollout_only import RolloutOnly


class TestPlainEnsemble(ModelContract):
    def make(self):
        return make_ensemble(n_models=3, n_particles_per_model=2, create_optimizer=True)


class TestMixtureEnsembleWithContext(ModelContract):
    def make(self):
        return make_ensemble(
            n_models=2, n_modes=3, context_space=CONTEXT, action_space=DISCRETE, create_optimizer=True
        )


class TestEnsembleOfNestedContextsAndActions(ModelContract):
    def make(self):
        return make_ensemble(
            n_models=2, n_modes=2, context_space=NESTED, action_space=NESTED["a"], create_optimizer=True
        )


class TestSingleMemberOfAbsoluteStates(ModelContract):
    def make(self):
        return make_ensemble(
            n_particles_per_model=3, create_optimizer=True, predict_delta=False, normalize_targets=False
        )


class NormalizedNet(nn.Module):
    """A member that isn't made of Linear layers alone, so that it is vmapped."""

    def __init__(self, *spaces_and_modes):
        super().__init__()
        self.net = ProbFCDynamics(*spaces_and_modes, hidden_sizes=(16,))
        self.norm = nn.LayerNorm(3)

    def forward(self, state, context, action):
        return self.net(torch.tanh(self.norm(state)), context, action)


class TestVmappedEnsemble(ModelContract):
    def make(self):
        return make_ensemble(net=NormalizedNet, n_models=3, n_particles_per_model=2, create_optimizer=True)


class TestRecalibratedEnsemble(ModelContract):
    def make(self):
        model = make_ensemble(n_models=2, n_modes=2, n_particles_per_model=2, create_optimizer=True)
        model.recalibrate(make_batch(100), "isotonic")
        return model


class TestPooledEnsemble(ModelContract):
    def make(self):
        model = make_ensemble(n_models=2, n_modes=2, n_particles_per_model=2, create_optimizer=True)
        model.recalibrate(make_batch(100), "pooled")
        return model


class TestModelWithNothingButWhatIsAbstract(ModelContract):
    def make(self):
        return RolloutOnly(
            make_ensemble(
                n_models=2, n_modes=2, n_particles_per_model=2, context_space=CONTEXT, create_optimizer=True
            )
        )
