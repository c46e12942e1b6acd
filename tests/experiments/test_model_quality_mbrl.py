"""What mbrl-lib has learned is judged as mbrl-lib would foretell it itself."""

import pytest
import torch
from gymnasium.spaces import Box

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.types import Batch

pytest.importorskip("mbrl.models")

# mbrl-lib's own code warns of this and that.
pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.filterwarnings("ignore")]


def make_buffer() -> ReplayBuffer:
    torch.manual_seed(0)
    buffer = ReplayBuffer(Box(-9, 9, (3,)), None, Box(-1, 1, (2,)), capacity=400)
    state, action = torch.tensor([0.1, 1.0, 5.0]) * torch.randn(400, 3) + 2, 2 * torch.rand(400, 2) - 1
    step = torch.cat([action, action[:, :1] * state[:, 1:2]], dim=1)
    buffer.add(Batch(state, None, action, state + 0.1 * step, torch.zeros(400, dtype=torch.bool)))
    return buffer


@pytest.mark.parametrize("hidden_states", [(), (0,)])
def test_the_ensemble_carried_over_foretells_what_mbrl_lib_does(monkeypatch, hidden_states):
    from experiments import model_quality_mbrl as ours

    theirs = []
    make = ours._make_model

    def keep(*args):
        theirs.append(make(*args))
        return theirs[-1]

    monkeypatch.setattr(ours, "_make_model", keep)
    buffer = make_buffer()
    fit = ours.fit_mbrl(buffer, n_models=3, hidden_sizes=(8, 8), hidden_states=hidden_states, seconds=0.2, seed=0)
    assert fit.n_epochs >= 1
    assert fit.seconds >= 0.2
    batch = buffer[:50]
    got = fit.model.predict(batch.state, None, batch.action)
    inputs = theirs[0]._get_model_input(batch.state.numpy(), batch.action.numpy())
    mean, logvar = theirs[0].model(inputs, use_propagation=False)
    expected = batch.state + mean
    torch.testing.assert_close(got.mean.squeeze(2).transpose(0, 1), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.std.squeeze(2).transpose(0, 1), (0.5 * logvar).exp(), rtol=1e-4, atol=1e-5)
