"""Wrong input: errors that name class, argument, what was got and what was expected."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text
from torch import Tensor, nn

import layeredrl.policies as ours
from layeredrl.policies import GaussianMixin, Model

pytestmark = pytest.mark.usefixtures("unchecked")

BOX = Box(-1.0, 1.0, (3,))
UNBOUNDED = Box(-np.inf, np.inf, (3,))
GAUSSIANS = [ours.GaussianMixin, ours.MultivariateGaussianMixin, ours.SquashedGaussianMixin]
OBSERVATIONS = {"observations": torch.zeros(4, 3)}
LOG_STD = {"log_std": torch.zeros(3)}


def make(mixin: Any, action_space: Any, answer: Any = None, **settings: Any) -> Any:
    class Policy(mixin, Model):
        def __init__(self) -> None:
            Model.__init__(self, observation_space=3, action_space=action_space, device="cpu")
            mixin.__init__(self, **settings)

        def compute(self, inputs: dict[str, Any], role: str = "") -> Any:
            return answer

    return Policy()


# When the class is created ----------------------------------------------------------------------------------


def test_a_mixin_behind_model_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"class Late: got the bases \(Model, GaussianMixin\), .*Late\(GaussianMixin, Model\)"
    ):
        type("Late", (Model, GaussianMixin), {})


def test_a_mixin_behind_a_subclass_of_model_is_refused() -> None:
    base = type("Base", (Model,), {})
    with pytest.raises(TypeError, match=r"expected mixins first and Model last: class Late\(GaussianMixin, Base\)"):
        type("Late", (base, GaussianMixin), {})
    type("Fine", (GaussianMixin, base), {})


def test_a_model_without_compute_or_mixin_can_not_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (GaussianMixin, Model), {})()
    with pytest.raises(TypeError, match="abstract"):
        type("Mute", (Model,), {"compute": lambda self, inputs, role="": (inputs, {})})()


# When the model is made -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixin", [ours.GaussianMixin, ours.SquashedGaussianMixin])
def test_unknown_reductions_are_refused(mixin: Any) -> None:
    with pytest.raises(ValueError, match=r"Policy: got reduction 'median', expected one of \['mean', 'sum'"):
        make(mixin, BOX, reduction="median")


def test_unknown_reduction_of_multi_categorical_is_refused() -> None:
    with pytest.raises(ValueError, match="Policy: got reduction 'median'"):
        make(ours.MultiCategoricalMixin, MultiDiscrete([2, 2]), reduction="median")


@pytest.mark.parametrize(
    ("mixin", "spaces", "expected"),
    [
        *[
            (mixin, [Discrete(3), MultiDiscrete([2]), Dict({"a": Discrete(2)}), None], "a Box")
            for mixin in GAUSSIANS
        ],
        (ours.CategoricalMixin, [BOX, MultiDiscrete([2]), MultiBinary(2), None], "a Discrete"),
        (ours.MultiCategoricalMixin, [BOX, Discrete(3), 3, None], "a MultiDiscrete"),
    ],
)
def test_action_spaces_that_a_mixin_can_not_serve_are_refused(mixin: Any, spaces: list[Any], expected: str) -> None:
    for space in spaces:
        with pytest.raises(TypeError, match=rf"Policy: got action_space .*, expected {expected}"):
            make(mixin, space)


@pytest.mark.parametrize("space", [UNBOUNDED, 3])
@pytest.mark.parametrize(
    ("mixin", "argument"),
    [
        (ours.DeterministicMixin, "clip_actions"),
        (ours.GaussianMixin, "clip_actions"),
        (ours.GaussianMixin, "clip_mean_actions"),
        (ours.MultivariateGaussianMixin, "clip_actions"),
        (ours.MultivariateGaussianMixin, "clip_mean_actions"),
    ],
)
def test_clipping_to_no_bounds_is_refused(mixin: Any, argument: str, space: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"Policy: got {argument}=True for the action space .*, expected a Box with bounds"
    ):
        make(mixin, space, **{argument: True})


@pytest.mark.parametrize("space", [Discrete(3), None])
def test_clipping_discrete_actions_is_refused(space: Any) -> None:
    with pytest.raises(ValueError, match="got clip_actions=True"):
        make(ours.DeterministicMixin, space, clip_actions=True)


def test_clipping_respects_the_bounds_there_are() -> None:
    half_bounded = Box(np.array([-1.0, -np.inf, 0.0]), np.array([np.inf, np.inf, 1.0]), dtype=np.float64)
    policy = make(ours.DeterministicMixin, half_bounded, (torch.tensor([[-5.0, -5.0, 5.0]]), {}), clip_actions=True)
    assert policy.act(OBSERVATIONS)[0].tolist() == [[-1.0, -5.0, 1.0]]


@pytest.mark.parametrize("space", [UNBOUNDED, 3, Box(np.array([0.0, 1.0]), np.array([1.0, 1.0]), dtype=np.float64)])
def test_squashing_needs_room_between_finite_bounds(space: Any) -> None:
    with pytest.raises(ValueError, match=r"Policy: got action_space .*, expected a Box with finite bounds"):
        make(ours.SquashedGaussianMixin, space)


@pytest.mark.parametrize("mixin", GAUSSIANS)
def test_log_std_bounds_the_wrong_way_round_are_refused(mixin: Any) -> None:
    with pytest.raises(ValueError, match=r"Policy: got min_log_std 1 and max_log_std 0, expected min ≤ max"):
        make(mixin, BOX, min_log_std=1, max_log_std=0)


@pytest.mark.parametrize("name", ["observation_space", "state_space", "action_space"])
@pytest.mark.parametrize("space", ["three", 2.5, -1, Text(3), Dict({"a": Text(3)})])
def test_what_is_no_space_is_refused(name: str, space: Any) -> None:
    class Bare(ours.DeterministicMixin, Model):
        def compute(self, inputs: dict[str, Any], role: str = "") -> Any: ...

        def __init__(self, **spaces: Any):
            Model.__init__(self, **spaces)

    with pytest.raises(TypeError, match=rf"{name}: got .*, expected"):
        Bare(**{name: space})


def test_unknown_devices_are_refused() -> None:
    class Bare(ours.DeterministicMixin, Model):
        def compute(self, inputs: dict[str, Any], role: str = "") -> Any: ...

        def __init__(self, *spaces: Any, device: Any = None):
            Model.__init__(self, *spaces, **({} if device is None else {"device": device}))

    with pytest.raises(ValueError, match="device: got 'toaster', expected"):
        Bare(device="toaster")
    with pytest.raises(TypeError, match=r"device: got Box.*, expected a torch.device"):
        Bare(BOX, BOX, BOX)
    assert Bare().device.type == ("cuda" if torch.cuda.is_available() else "cpu")


# When it acts -----------------------------------------------------------------------------------------------

ALL = [
    (ours.DeterministicMixin, BOX, 3, {"clip_actions": True}),
    *[(mixin, BOX, 3, {}) for mixin in GAUSSIANS],
    (ours.CategoricalMixin, Discrete(3), 3, {}),
    (ours.MultiCategoricalMixin, MultiDiscrete([3, 2]), 5, {}),
]


@pytest.mark.parametrize(("mixin", "space", "width", "settings"), ALL)
def test_net_outputs_of_the_wrong_width_are_refused(
    mixin: Any, space: Any, width: int, settings: dict[str, Any]
) -> None:
    policy = make(mixin, space, (torch.zeros(4, width + 1), LOG_STD), **settings)
    with pytest.raises(
        ValueError, match=rf"Policy: got net output of shape \(4, {width + 1}\), expected \(…, {width}\)"
    ):
        policy.act(OBSERVATIONS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("mixin", "space", "width", "settings"), [*ALL, (ours.TabularMixin, Discrete(3), 3, {})])
def test_nan_from_the_net_is_refused_and_leaves_nothing(
    mixin: Any, space: Any, width: int, settings: dict[str, Any], value: float
) -> None:
    output = torch.zeros(4, width)
    output[2, 1] = value
    policy = make(mixin, space, (output, LOG_STD), **settings)
    if mixin in (ours.DeterministicMixin, ours.TabularMixin) and value == float("inf"):
        policy.act(OBSERVATIONS)  # can be clipped, or be meant
        return
    if mixin is ours.SquashedGaussianMixin and value == float("inf"):
        value = float("nan")
        output[2, 1] = value
    with pytest.raises(ValueError, match=r"Policy: got .* at index \(2,"):
        policy.act(OBSERVATIONS)
    if hasattr(policy, "distribution"):
        with pytest.raises(ValueError, match=r"Policy: got role '', expected one that has acted: \[\]"):
            policy.distribution()


@pytest.mark.parametrize("mixin", GAUSSIANS)
def test_nan_in_log_std_or_taken_actions_is_named(mixin: Any) -> None:
    policy = make(mixin, BOX, (torch.zeros(4, 3), {"log_std": torch.tensor([0.0, float("nan"), 0.0])}))
    with pytest.raises(ValueError, match=r"Policy: got nan in log_std at index \(1,\), expected finite values"):
        policy.act(OBSERVATIONS)
    policy = make(mixin, BOX, (torch.zeros(4, 3), LOG_STD))
    with pytest.raises(ValueError, match=r"Policy: got nan in taken_actions at index \(0, 0\)"):
        policy.act({**OBSERVATIONS, "taken_actions": torch.full((4, 3), float("nan"))})


@pytest.mark.parametrize("probs", [[0.5, -0.5, 1.0], [0.0, 0.0, 0.0], [-1.0, -1.0, -1.0]])
def test_improper_probabilities_are_refused(probs: list[float]) -> None:
    policy = make(ours.CategoricalMixin, Discrete(3), (torch.tensor([probs]), {}), unnormalized_log_prob=False)
    with pytest.raises(ValueError, match=r"Policy: got net output .* at index \(0,\), expected probabilities"):
        policy.act(OBSERVATIONS)


def test_masked_logits_are_fine() -> None:
    policy = make(ours.CategoricalMixin, Discrete(3), (torch.tensor([[0.0, -torch.inf, 0.0]] * 100), {}))
    assert 1 not in policy.act(OBSERVATIONS)[0]


@pytest.mark.parametrize("mixin", GAUSSIANS)
def test_missing_or_misshapen_log_std_is_refused(mixin: Any) -> None:
    with pytest.raises(
        ValueError, match=r"Policy.compute: got outputs with the keys \['std'\], expected .*'log_std'"
    ):
        make(mixin, BOX, (torch.zeros(4, 3), {"std": torch.ones(3)})).act(OBSERVATIONS)
    for shape in ((2,), (5, 3), (2, 4, 3)):
        with pytest.raises(
            ValueError, match=r"Policy.compute: got log_std of shape .*, expected what broadcasts to"
        ):
            make(mixin, BOX, (torch.zeros(4, 3), {"log_std": torch.zeros(shape)})).act(OBSERVATIONS)


@pytest.mark.parametrize("answer", [None, torch.zeros(4, 3), (torch.zeros(4, 3), torch.zeros(3), {}), ([0.0], {})])
def test_other_return_values_of_compute_are_refused(answer: Any) -> None:
    with pytest.raises(TypeError, match=r"Policy.compute: got a return value .*, expected \(Tensor, dict\)"):
        make(ours.GaussianMixin, BOX, answer).act(OBSERVATIONS)


@pytest.mark.parametrize(("mixin", "space", "width", "settings"), ALL[1:])
def test_taken_actions_of_the_wrong_shape_are_refused(
    mixin: Any, space: Any, width: int, settings: dict[str, Any]
) -> None:
    policy = make(mixin, space, (torch.zeros(4, width), LOG_STD), **settings)
    with pytest.raises(ValueError, match=r"Policy: got taken_actions of shape \(4, 7\), expected"):
        policy.act({**OBSERVATIONS, "taken_actions": torch.zeros(4, 7)})


@pytest.mark.parametrize(("mixin", "space", "width", "settings"), [*ALL, (ours.TabularMixin, Discrete(3), 3, {})])
def test_roles_never_initialised_are_refused(mixin: Any, space: Any, width: int, settings: dict[str, Any]) -> None:
    policy = make(mixin, space, (torch.zeros(4, width), LOG_STD), role="policy", **settings)
    with pytest.raises(
        ValueError, match=r"Policy: got role 'value', expected one that was initialised: \['policy'\]"
    ):
        policy.act(OBSERVATIONS, role="value")


def test_roles_that_have_not_acted_have_no_distribution() -> None:
    policy = make(ours.GaussianMixin, BOX, (torch.zeros(4, 3), LOG_STD))
    policy.act(OBSERVATIONS, role="policy")
    for ask in (policy.distribution, policy.get_entropy):
        with pytest.raises(
            ValueError, match=r"Policy: got role 'other', expected one that has acted: \['policy'\]"
        ):
            ask(role="other")


# Parameters and files ---------------------------------------------------------------------------------------


def small(width: int = 2) -> Any:
    policy = make(ours.DeterministicMixin, BOX)
    policy.layer = nn.Linear(3, width)
    return policy


@pytest.mark.parametrize("method", ["init_parameters", "init_weights", "init_biases"])
@pytest.mark.parametrize("name", ["normal", "_no_grad_fill_", "__import__('os')", "calculate_gain"])
def test_unknown_initialisers_are_refused_with_the_known_ones(method: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"method_name: got .*, expected one of \[.*'orthogonal_'.*\]"):
        getattr(small(), method)(name)


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="mode: got 'testing', expected 'train' or 'eval'"):
        small().set_mode("testing")


def test_unequal_models_are_refused_and_unchanged() -> None:
    model, other = small(2), small(5)
    before = model.layer.weight.clone()
    with pytest.raises(ValueError, match=r"model: got \(5, 3\) for 'layer.weight', expected \(2, 3\)"):
        model.update_parameters(other)
    other.layer = None
    with pytest.raises(ValueError, match=r"model: got nothing for 'layer.weight', expected \(2, 3\)"):
        model.update_parameters(other)
    assert torch.equal(model.layer.weight, before)


@pytest.mark.parametrize("polyak", [-0.1, 1.5, float("nan")])
def test_polyak_outside_of_the_unit_interval_is_refused(polyak: float) -> None:
    with pytest.raises(ValueError, match=rf"polyak: got {polyak}, expected a number in \[0, 1\]"):
        small().update_parameters(small(), polyak=polyak)


def test_files_of_other_models_are_refused_and_change_nothing(tmp_path: Path) -> None:
    model = small(2)
    before = model.layer.bias.clone()
    small(5).save(tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt.*: got \(5, 3\) for 'layer.weight', expected \(2, 3\)"):
        model.load(tmp_path / "other.pt")
    assert torch.equal(model.layer.bias, before)


def test_random_actions_need_a_space() -> None:
    with pytest.raises(TypeError, match="action_space: got 3, expected a gymnasium space"):
        make(ours.DeterministicMixin, 3).random_act(OBSERVATIONS)


def test_values_of_another_structure_are_refused() -> None:
    model, space = small(), Dict({"a": BOX, "b": Discrete(2)})
    with pytest.raises(ValueError, match=r"tensor: got shape \(4, 3\), expected \(…, 4\)"):
        model.tensor_to_space(torch.zeros(4, 6), space, start=3)
    for value in ({"a": torch.zeros(1, 3)}, torch.zeros(1, 4)):
        with pytest.raises(TypeError, match=r"value: got .*, expected a dict with the keys \['a', 'b'\]"):
            model.space_to_tensor(value, space)
    with pytest.raises(ValueError, match=r"value: got shape \(2, 4\), expected"):
        model.space_to_tensor(torch.zeros(2, 4), BOX)
    with pytest.raises(TypeError, match=r"value: got list, expected a Tensor"):
        model.space_to_tensor([1.0], BOX)


def test_answers_stay_tensors() -> None:
    actions: Tensor = make(ours.GaussianMixin, BOX, (torch.zeros(4, 3), LOG_STD))(OBSERVATIONS)[0]
    assert actions.shape == (4, 3)
