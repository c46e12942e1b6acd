"""A model that gives what it must and nothing else, so that the defaults of `Model` are what is tested."""

from layeredrl.models.model import Model
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble


class RolloutOnly(Model):
    """Hands everything abstract to an ensemble. Its `unroll` is that of `Model`."""

    def __init__(self, ensemble: ProbabilisticEnsemble):
        super().__init__(ensemble.n_models, ensemble.n_particles_per_model)
        self.state_space, self.context_space = ensemble.state_space, ensemble.context_space
        self.action_space, self.optimizer = ensemble.action_space, ensemble.optimizer
        self.ensemble = ensemble
        self.eval()

    def get_parameters(self):
        return self.ensemble.get_parameters()

    def loss(self, batch):
        return self.ensemble.loss(batch)

    def predict(self, *inputs, **more):
        return self.ensemble.predict(*inputs, **more)

    def sample(self, *inputs, **more):
        return self.ensemble.sample(*inputs, **more)

    def rollout(self, *inputs, **more):
        return self.ensemble.rollout(*inputs, **more)

    def get_log_prob(self, *inputs, **more):
        return self.ensemble.get_log_prob(*inputs, **more)

    def update_statistics(self, batch):
        self.ensemble.update_statistics(batch)
