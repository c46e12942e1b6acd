"""The base of all models: spaces, parameters, files, roles, copies."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor, nn

from layeredrl.policies import DeterministicMixin, GaussianMixin, Model

OBSERVATIONS = Dict({"image": Box(-1, 1, (2, 3)), "gear": Discrete(4, start=1)})
ACTIONS = Box(-1.0, 2.0, (2,))


class Shared(GaussianMixin, DeterministicMixin, Model):
    """Policy and value on one trunk."""

    def __init__(self, observation_space: Any = 3, action_space: Any = ACTIONS, device: Any = "cpu"):
        Model.__init__(self, observation_space, action_space, device)
        GaussianMixin.__init__(self, clip_actions=True, role="policy")
        GaussianMixin.__init__(self, reduction="none", role="explorer")
        DeterministicMixin.__init__(self, role="value")
        self.trunk = nn.Sequential(nn.Linear(self.num_observations, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 8)))
        self.mean, self.value = nn.Linear(8, 2), nn.Linear(8, 1)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.long))

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        features = self.trunk(inputs["observations"])
        if role == "value":
            return self.value(features), {}
        return 5.0 * self.mean(features), {"log_std": torch.zeros(2)}


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return {"observations": torch.randn(6, 3)}


def test_each_role_has_its_own_settings(inputs: dict[str, Tensor]) -> None:
    model = Shared()
    actions, outputs = model.act(inputs, role="policy")
    assert bool((actions.min() >= -1) & (actions.max() <= 2))
    assert outputs["log_prob"].shape == (6, 1)
    actions, outputs = model.act(inputs, role="explorer")
    assert bool((actions < -1).any() | (actions > 2).any())
    assert outputs["log_prob"].shape == (6, 2)
    assert model.act(inputs, role="value")[0].shape == (6, 1)
    assert model.distribution(role="policy") is not model.distribution(role="explorer")
    assert model.get_entropy(role="policy").shape == (6, 1)


def test_settings_without_a_role_serve_all_roles(inputs: dict[str, Tensor]) -> None:
    class Plain(GaussianMixin, Model):
        def __init__(self) -> None:
            Model.__init__(self, observation_space=3, action_space=2, device="cpu")
            GaussianMixin.__init__(self)

        def compute(self, inputs: dict[str, Any], role: str) -> tuple[Tensor, dict[str, Any]]:
            return inputs["observations"][..., :2], {"log_std": torch.zeros(2)}

    model = Plain()
    model(inputs, role="policy")
    assert torch.equal(model.get_entropy(), model.get_entropy(role="policy"))
    assert model.compute(inputs, "policy")[0].shape == model.compute(inputs, role="policy")[0].shape


def test_a_role_goes_to_the_mixin_that_was_initialised_for_it(inputs: dict[str, Tensor]) -> None:
    class Mixed(GaussianMixin, DeterministicMixin, Model):
        def __init__(self) -> None:
            Model.__init__(self, observation_space=3, action_space=2, device="cpu")
            GaussianMixin.__init__(self)
            DeterministicMixin.__init__(self, role="value")

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return inputs["observations"][..., :2], {"log_std": torch.zeros(2)}

    model = Mixed()
    assert "log_prob" in model.act(inputs, role="anything")[1]
    assert "log_prob" not in model.act(inputs, role="value")[1]


def test_users_may_choose_the_mixin_of_a_role_themselves(inputs: dict[str, Tensor]) -> None:
    class Chosen(Shared):
        def act(self, inputs: Any, *, role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return (DeterministicMixin if role == "value" else GaussianMixin).act(self, inputs, role=role)

    assert Chosen().act(inputs, role="value")[0].shape == (6, 1)
    assert Chosen().act(inputs, role="policy")[0].shape == (6, 2)


def test_acting_changes_neither_inputs_nor_what_compute_returned(inputs: dict[str, Tensor]) -> None:
    returned = {"log_std": torch.full((2,), 5.0)}

    class Keeps(Shared):
        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return inputs["observations"][..., :2], returned

    before = {name: value.clone() for name, value in inputs.items()}
    outputs = Keeps().act(inputs, role="policy")[1]
    assert inputs.keys() == before.keys()
    assert torch.equal(inputs["observations"], before["observations"])
    assert list(returned) == ["log_std"]
    assert float(outputs["log_std"][0]) == 2.0


def test_sizes_count_one_hot_codes() -> None:
    model = Shared(OBSERVATIONS, Box(-1, 1, (2,)))
    assert (model.num_observations, model.num_states, model.num_actions) == (10, 0, 2)
    assert model._get_space_size(OBSERVATIONS) == 10
    assert model._get_space_size(OBSERVATIONS, number_of_elements=False) == 7
    assert model._get_space_size(MultiDiscrete(np.array([[2, 3], [4, 5]]))) == 14


def test_tensors_become_values_of_spaces_and_back() -> None:
    tensor = torch.arange(20.0).reshape(2, 10)
    value = Shared().tensor_to_space(tensor, OBSERVATIONS, start=2)
    assert value["gear"].tolist() == [[2.0], [12.0]]
    assert value["image"].shape == (2, 2, 3)
    assert torch.equal(Shared().space_to_tensor(value, OBSERVATIONS), tensor[:, 2:9])


@pytest.mark.parametrize(
    "space", [ACTIONS, Discrete(3, start=5), MultiDiscrete([2, 3]), MultiBinary(4), OBSERVATIONS]
)
def test_random_actions_are_as_many_as_the_observations(space: Any) -> None:
    class Any_(DeterministicMixin, Model):
        def __init__(self) -> None:
            Model.__init__(self, observation_space=3, action_space=space, device="cpu")
            DeterministicMixin.__init__(self)

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return inputs["observations"], {}

    model = Any_()
    first, again = (
        model.random_act({"observations": torch.zeros(7, 2, 3), "generator": torch.Generator().manual_seed(0)})[0]
        for _ in range(2)
    )
    assert first.shape == (7, 2, model._get_space_size(space, number_of_elements=False))
    assert torch.equal(first, again)


def test_initialisers_reach_every_linear_of_the_tree() -> None:
    model = Shared()
    model.init_weights("constant_", val=0.5)
    model.init_biases("constant_", 0.25)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 4
    assert all(bool((layer.weight == 0.5).all() & (layer.bias == 0.25).all()) for layer in layers)
    model.init_parameters("zeros_")
    assert all(not bool(parameter.any()) for parameter in model.parameters())


def test_lazy_parameters_become_real_without_touching_the_random_state() -> None:
    class Lazy(DeterministicMixin, Model):
        def __init__(self) -> None:
            Model.__init__(
                self,
                observation_space=OBSERVATIONS,
                action_space=ACTIONS,
                state_space=Box(0, 1, (3,)),
                device="cpu",
            )
            DeterministicMixin.__init__(self)
            self.net = nn.LazyLinear(2, bias=False)

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            return self.net(
                torch.cat([inputs["observations"], inputs["states"], inputs["taken_actions"]], dim=-1)
            ), {}

    model, other = Lazy(), Lazy()
    with pytest.raises(ValueError, match="init_state_dict"):
        model.update_parameters(other)
    torch.manual_seed(0)
    model.init_state_dict(role="policy")
    torch.manual_seed(0)
    assert torch.equal(model.net.weight, nn.Linear(12, 2, bias=False).weight)


def test_polyak_updates_move_parameters_and_buffers() -> None:
    target, source = Shared(), Shared()
    source.scale += 2.0
    source.n_calls += 4
    expected = {name: 0.75 * value for name, value in copy.deepcopy(target).state_dict().items()}
    target.update_parameters(source, polyak=0.25)
    for name, value in target.named_parameters():
        torch.testing.assert_close(value, expected[name] + 0.25 * source.get_parameter(name))
    assert target.scale.tolist() == [1.5, 1.5]
    assert int(target.n_calls) == 4
    target.update_parameters(source)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_freezing_stops_gradients_and_training_mode_switches() -> None:
    model = Shared()
    model.freeze_parameters()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.freeze_parameters(False)
    assert all(parameter.requires_grad for parameter in model.parameters())
    for switch, argument, expected in (
        (model.enable_training_mode, False, False),
        (model.set_mode, "train", True),
        (model.set_mode, "eval", False),
    ):
        switch(argument)
        assert model.training is expected


def test_copies_and_pickles_work_after_acting(inputs: dict[str, Tensor]) -> None:
    model = Shared()
    expected = model.act({**inputs, "deterministic": True}, role="policy")[0]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.act({**inputs, "deterministic": True}, role="policy")[0], expected)
    assert model.get_entropy(role="policy").requires_grad is False


def test_files_round_trip(tmp_path: Path, inputs: dict[str, Tensor]) -> None:
    model, other = Shared(), Shared()
    model.save(tmp_path / "model.pt")
    other.load(str(tmp_path / "model.pt"))
    assert not other.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
    model.save(tmp_path / "zeros.pt", state_dict={n: torch.zeros_like(v) for n, v in model.state_dict().items()})
    other.load(tmp_path / "zeros.pt")
    assert not any(bool(value.any()) for value in other.state_dict().values())


def test_importing_the_package_changes_nothing_of_torchs() -> None:
    code = (
        "import torch, torch.distributions as d;"
        "classes = [d.Distribution, d.Normal, d.Categorical, d.MultivariateNormal];"
        "before = [c._validate_args for c in classes], torch.get_rng_state().tolist();"
        "import layeredrl.policies, layeredrl.policies.networks;"
        "assert before == ([c._validate_args for c in classes], torch.get_rng_state().tolist())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _work_in_a_group(rank: int, file: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = Shared()
    model.n_calls += rank
    model.broadcast_parameters(rank=1)
    model.value(torch.full((1, 8), float(rank + 1))).sum().backward()
    model.reduce_parameters()
    results[rank] = (
        model.trunk[0].weight.tolist(),
        int(model.n_calls),
        model.value.weight.grad.tolist(),
        model.mean.weight.grad,
    )
    dist.destroy_process_group()


def test_groups_share_parameters_and_average_gradients(tmp_path: Path) -> None:
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_work_in_a_group, args=(str(tmp_path / "group"), results), nprocs=2)
        first, second = results[0], results[1]
    torch.manual_seed(1)
    assert first == second
    assert first[0] == Shared().trunk[0].weight.tolist()
    assert first[1] == 1
    assert first[2] == [[1.5] * 8]
    assert first[3] is None
