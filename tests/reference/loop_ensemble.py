"""The ensemble as a plain loop over its members, with torch.distributions."""

import math
from functools import partial

import torch
from gymnasium.spaces import Dict, Discrete, MultiDiscrete, Tuple
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics

NET = partial(ProbFCDynamics, hidden_sizes=(16, 16), nonlinearity=nn.SiLU)


def _code(space, columns):
    """Columns of features, from those of rows, one by one."""
    if isinstance(space, Dict):
        return [code for key in sorted(space) for code in _code(space[key], columns)]
    if isinstance(space, Tuple):
        return [code for part in space for code in _code(part, columns)]
    if isinstance(space, Discrete):
        return list(torch.eye(int(space.n))[next(columns).long() - int(space.start)].unbind(-1))
    if isinstance(space, MultiDiscrete):
        entries = [Discrete(n, start=start) for n, start in zip(space.nvec, space.start, strict=True)]
        return [code for entry in entries for code in _code(entry, columns)]
    return [next(columns).float() for _ in range(math.prod(space.shape))]


class LoopEnsemble:
    """Reads the weights of a vectorised ensemble of `NET`s, and does everything else on its own."""

    def __init__(self, model: ProbabilisticEnsemble):
        self.model = model
        self.spaces = (model.state_space, model.context_space, model.action_space)
        self.nets = []
        for e in range(model.n_models):
            net = NET(*self.spaces, model.n_modes)
            net.load_state_dict({k: v[e] for k, v in model.members.nets.members.state_dict().items()})
            self.nets.append(net)

    def _features(self, state, context, action):
        parts = []
        for space, value in zip(self.spaces, (state, context, action), strict=True):
            parts.append(None if value is None else torch.stack(_code(space, iter(value.unbind(-1))), dim=-1))
        sizes = [0 if part is None else part.shape[-1] for part in parts]
        means, variances = (x.split(sizes) for x in (self.model.members.inputs.mean, self.model.members.inputs.var))
        return [
            None if part is None else (part - mean) / var.sqrt()
            for part, mean, var in zip(parts, means, variances, strict=True)
        ]

    def member_outputs(self, e, state, context, action):
        """Member e's mixture over absolute next states and its probability of termination."""
        (mean, std), weights, term_prob = self.nets[e](*self._features(state, context, action))
        scale = self.model.members.targets.var.sqrt()
        mean = mean * scale + (state.unsqueeze(-2) if self.model.members.predict_delta else 0.0)
        law = MixtureSameFamily(Categorical(weights), Independent(Normal(mean, std * scale), 1))
        return law, term_prob

    def log_prob(self, state, context, action, next_state):
        members = [self.member_outputs(e, state, context, action) for e in range(len(self.nets))]
        densities = torch.stack([law.log_prob(next_state) for law, _ in members])
        return torch.logsumexp(densities, dim=0) - torch.tensor(float(len(self.nets))).log()

    def deterministic_rollout(self, e, initial_state, context, actions):
        """States that member e's mean passes through, by hand: (B, H+1, S)."""
        states = [initial_state]
        for t in range(actions.shape[1]):
            states.append(self.member_outputs(e, states[-1], context, actions[:, t])[0].mean)
        return torch.stack(states, dim=1)
