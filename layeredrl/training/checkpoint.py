"""Keep what was learned, and go on from it."""

from pathlib import Path

import torch

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.model import Model


def save_checkpoint(path: Path | str, model: Model, buffer: ReplayBuffer) -> None:
    """Write the model's weights and statistics and the buffer's transitions; never half a file."""
    path = Path(path)
    unfinished = path.with_suffix(path.suffix + ".unfinished")
    torch.save({"model": model.state_dict(), "buffer": buffer.state_dict()}, unfinished)
    unfinished.replace(path)


def load_checkpoint(path: Path | str, model: Model, buffer: ReplayBuffer) -> None:
    """Restore both, made with the same arguments as those saved. A file that would run code is refused."""
    checkpoint = torch.load(path, map_location=model.device, weights_only=True)
    own, saved = ({n: tuple(x.shape) for n, x in s.items()} for s in (model.state_dict(), checkpoint["model"]))
    for name in sorted(own.keys() | saved.keys()):
        if own.get(name) != saved.get(name):
            raise ValueError(f"model: got {name} {saved.get(name)} in the checkpoint, expected {own.get(name)}")
    buffer.load_state_dict(checkpoint["buffer"])
    model.load_state_dict(checkpoint["model"])
