"""Keep what was learned, and go on from it."""

from pathlib import Path

import torch
from torch import nn

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.model import Model
from layeredrl.models.reward_model import RewardModel


def save_checkpoint(
    path: Path | str, model: Model, buffer: ReplayBuffer, *, reward_model: RewardModel | None = None
) -> None:
    """Write the models' weights and statistics and the buffer's transitions; never half a file."""
    path = Path(path)
    unfinished = path.with_suffix(path.suffix + ".unfinished")
    content = {name: part.state_dict() for name, part in _models(model, reward_model).items()}
    torch.save({**content, "buffer": buffer.state_dict()}, unfinished)
    unfinished.replace(path)


def load_checkpoint(
    path: Path | str, model: Model, buffer: ReplayBuffer, *, reward_model: RewardModel | None = None
) -> None:
    """Restore everything, made with the same arguments as what was saved. A file that would run code is refused.

    Raises:
        ValueError: the checkpoint is of other models or another buffer, or holds a reward model where none is
            given, or none where one is. Nothing has changed then.
    """
    checkpoint = torch.load(path, map_location=model.device, weights_only=True)
    models = _models(model, reward_model)
    if ("reward_model" in checkpoint) != (reward_model is not None):
        got, holds = ("None", "holds one") if reward_model is None else ("one", "holds none")
        raise ValueError(f"reward_model: got {got}, but the checkpoint {holds}")
    for role, part in models.items():
        own, saved = ({n: tuple(x.shape) for n, x in s.items()} for s in (part.state_dict(), checkpoint[role]))
        for name in sorted(own.keys() | saved.keys()):
            if own.get(name) != saved.get(name):
                raise ValueError(
                    f"{role}: got {name} {saved.get(name)} in the checkpoint, expected {own.get(name)}"
                )
    buffer.load_state_dict(checkpoint["buffer"])
    for role, part in models.items():
        part.load_state_dict(checkpoint[role])


def _models(model: Model, reward_model: RewardModel | None) -> dict[str, nn.Module]:
    """The models under the names that a checkpoint has for them."""
    return {"model": model} if reward_model is None else {"model": model, "reward_model": reward_model}
