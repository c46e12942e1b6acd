"""Weights of other libraries' models move over, and no file runs code on the way."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from torch import Tensor, nn

from layeredrl.policies import GaussianMixin, Model, SquashedGaussianMixin

PPO_NAMES = {
    "log_std_parameter": "log_std",
    "net.0.weight": "mlp_extractor.policy_net.0.weight",
    "net.0.bias": "mlp_extractor.policy_net.0.bias",
    "net.2.weight": "mlp_extractor.policy_net.2.weight",
    "net.2.bias": "mlp_extractor.policy_net.2.bias",
    "net.4.weight": "action_net.weight",
    "net.4.bias": "action_net.bias",
}
SAC_NAMES = {
    "net.0.weight": "actor.latent_pi.0.weight",
    "net.0.bias": "actor.latent_pi.0.bias",
    "net.2.weight": "actor.latent_pi.2.weight",
    "net.2.bias": "actor.latent_pi.2.bias",
    "mean.weight": "actor.mu.weight",
    "mean.bias": "actor.mu.bias",
    "log_std.weight": "actor.log_std.weight",
    "log_std.bias": "actor.log_std.bias",
}


class PPOTwin(GaussianMixin, Model):
    """stable-baselines3's default policy network."""

    def __init__(self, env: Any):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
        GaussianMixin.__init__(self, clip_actions=True)
        layers = nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        self.net = nn.Sequential(*layers)
        self.log_std_parameter = nn.Parameter(torch.zeros(1))

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {"log_std": self.log_std_parameter}


class SACTwin(SquashedGaussianMixin, Model):
    """stable-baselines3's default actor, with narrower layers."""

    def __init__(self, env: Any):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
        SquashedGaussianMixin.__init__(self)
        self.net = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.mean, self.log_std = nn.Linear(32, 1), nn.Linear(32, 1)

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        features = self.net(inputs["observations"])
        return self.mean(features), {"log_std": self.log_std(features)}


class Small(GaussianMixin, Model):
    """Two layers, whose tensors all differ in shape."""

    def __init__(self) -> None:
        Model.__init__(self, observation_space=4, action_space=2, device="cpu")
        GaussianMixin.__init__(self)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {"log_std": torch.zeros(2)}


def external_weights() -> dict[str, Tensor]:
    return OrderedDict(
        {
            "a2c_network.actor_mlp.0.weight": torch.randn(8, 4),
            "a2c_network.actor_mlp.0.bias": torch.randn(8),
            "a2c_network.mu.weight": torch.randn(2, 8),
            "a2c_network.mu.bias": torch.randn(2),
            "running_mean_std.running_mean": torch.randn(4),
        }
    )


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    ("algorithm", "twin", "name_map", "settings"),
    [(PPO, PPOTwin, PPO_NAMES, {}), (SAC, SACTwin, SAC_NAMES, {"policy_kwargs": {"net_arch": [32, 32]}})],
)
def test_zips_of_stable_baselines_migrate_and_act_alike(
    algorithm: Any, twin: Any, name_map: dict[str, str], settings: dict[str, Any], tmp_path: Path
) -> None:
    env = gymnasium.make("Pendulum-v1")
    agent = algorithm("MlpPolicy", env, device="cpu", seed=0, **settings)
    agent.save(tmp_path / "agent.zip")
    policy = twin(env)
    assert policy.migrate(path=str(tmp_path / "agent.zip"), name_map=name_map)
    assert not policy.training
    observations = np.stack([env.observation_space.sample() for _ in range(50)])
    expected, _ = agent.predict(observations, deterministic=True)
    inputs = {"observations": torch.as_tensor(observations), "deterministic": True}
    torch.testing.assert_close(policy.act(inputs)[0].detach(), torch.as_tensor(expected))


@pytest.mark.parametrize("reward", [-100500, np.float32(3.5), np.float64(3.5)])
def test_checkpoints_of_rl_games_migrate(reward: Any, tmp_path: Path) -> None:
    weights = external_weights()
    checkpoint = {"model": weights, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}}
    torch.save({**checkpoint, "last_mean_rewards": reward, "env_state": None}, tmp_path / "nn.pth")
    model = Small()
    assert model.migrate(path=tmp_path / "nn.pth")
    assert torch.equal(model.net[0].weight, weights["a2c_network.actor_mlp.0.weight"])
    assert torch.equal(model.net[1].bias, weights["a2c_network.mu.bias"])


def test_ambiguous_and_missing_matches_are_reported_and_left_alone() -> None:
    model, external = Small(), external_weights()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    external["value.weight"] = torch.randn(2, 8)
    del external["a2c_network.mu.bias"]
    with pytest.warns(
        UserWarning, match=r"no match for net\.1\.bias.*|ambiguous match for net\.1\.weight"
    ) as record:
        assert not model.migrate(external)
    assert "ambiguous match for net.1.weight: a2c_network.mu.weight, value.weight" in str(record[0].message)
    assert "no match for net.1.bias (2,)" in str(record[0].message)
    assert torch.equal(model.net[0].weight, external["a2c_network.actor_mlp.0.weight"])
    assert torch.equal(model.net[1].weight, before["net.1.weight"])
    with pytest.warns(UserWarning, match="no match"):
        assert not model.migrate(external, name_map={"net.1.weight": "value.weight"})
    assert torch.equal(model.net[1].weight, external["value.weight"])


def test_one_tensor_is_not_given_to_two() -> None:
    class Twice(Small):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(4, 8)

    with pytest.warns(
        UserWarning, match=r"ambiguous use of a2c_network.actor_mlp.0.weight: net.0.weight, other.weight"
    ):
        assert not Twice().migrate(external_weights())


def test_equal_names_match_first(capsys: pytest.CaptureFixture[str]) -> None:
    model, source = Small(), Small()
    external = {**source.state_dict(), "another.weight": torch.randn(8, 4)}
    assert model.migrate(external, verbose=True)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    assert "net.0.weight <- net.0.weight" in capsys.readouterr().out


def test_without_auto_mapping_only_the_name_map_counts() -> None:
    model, external = Small(), external_weights()
    with pytest.warns(UserWarning, match="no match for net.0.bias"):
        assert not model.migrate(
            external, name_map={"net.0.weight": "a2c_network.actor_mlp.0.weight"}, auto_mapping=False
        )
    assert torch.equal(model.net[0].weight, external["a2c_network.actor_mlp.0.weight"])
    assert not torch.equal(model.net[0].bias, external["a2c_network.actor_mlp.0.bias"])


def write_archive(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)


def torch_bytes(content: object, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("where", ["load", "migrate .pth", "migrate .zip"])
def test_crafted_files_run_nothing(where: str, legacy: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = {"model": Small().state_dict(), "net.0.weight": Bomb(trace)}
    crafted = torch_bytes(content, _use_new_zipfile_serialization=not legacy)
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / ("crafted" + (where.split()[-1] if " " in where else ".pt"))
    if where == "migrate .zip":
        write_archive(path, "policy.pth", crafted)
    else:
        path.write_bytes(crafted)
    with pytest.raises(ValueError, match=r"path: got .*crafted.*, expected a file of weights alone"):
        model.load(path) if where == "load" else model.migrate(path=path)
    assert not trace.exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # The bomb is a real one.
    torch.load(io.BytesIO(crafted), weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("content", [b"", b"no pickle at all", None])
def test_other_files_are_refused(content: bytes | None, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "file.pth"
    path.write_bytes(pickle.dumps(Bomb(trace), protocol=2) if content is None else content)
    for read in (Small().load, lambda path: Small().migrate(path=path)):
        with pytest.raises(ValueError, match="expected a file of weights alone"):
            read(path)
    assert not trace.exists()


def test_archives_without_weights_are_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "empty.zip", "data", b"{}")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    for name in ("empty.zip", "broken.zip"):
        with pytest.raises(ValueError, match=rf"path: got .*{name}.*, expected an archive with a policy.pth"):
            Small().migrate(path=tmp_path / name)


def test_files_that_hold_no_tensors_by_name_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected tensors by name"):
        Small().migrate(path=tmp_path / "list.pth")


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_of_migrate_are_refused() -> None:
    model, external = Small(), external_weights()
    with pytest.raises(ValueError, match="exactly one"):
        model.migrate()
    with pytest.raises(ValueError, match="exactly one"):
        model.migrate(external, path="model.pth")
    with pytest.raises(ValueError, match=r"path: got 'model.onnx', expected a .pth"):
        model.migrate(path="model.onnx")
    with pytest.raises(ValueError, match=r"name_map: got the own name 'net.9', expected one of"):
        model.migrate(external, name_map={"net.9": "a2c_network.mu.bias"})
    with pytest.raises(ValueError, match=r"name_map: got the external name 'mu', expected one of"):
        model.migrate(external, name_map={"net.1.bias": "mu"})
    with pytest.raises(ValueError, match=r"name_map: got 'a2c_network.mu.weight' of shape \(2, 8\) .*\(2,\)"):
        model.migrate(external, name_map={"net.1.bias": "a2c_network.mu.weight"})
