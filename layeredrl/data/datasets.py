"""Recorded transitions, from files."""

import zipfile
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Space
from jaxtyping import Num
from numpy.typing import NDArray
from torch import Tensor

from layeredrl.data.episodes import concatenate
from layeredrl.space_values import to_rows
from layeredrl.spaces import check_space, row_size
from layeredrl.types import Batch

# Kinds of NumPy arrays: booleans, integers without and with a sign, floating point.
NUMBERS = "buif"


class Recording(NamedTuple):
    """Transitions in the order of time, and the spaces that they fill."""

    batch: Batch
    state_space: Space[Any]
    action_space: Space[Any]


def load_npz(
    path: str | PathLike[str],
    state_space: Space[Any],
    action_space: Space[Any],
    context_space: Space[Any] | None = None,
) -> Batch:
    """Transitions that `numpy.savez` wrote, in the order that they have in the file.

    Args:
        path: of a file with the arrays `state`, `action`, `next_state` and `terminated`, with `context` where there
            is a space for it, and perhaps `reward` and `truncated`. Transitions lie along the first axis.
        state_space, action_space, context_space: of a single value.

    Raises:
        ValueError: no file of arrays, or one is missing, or of another length or shape.
    """
    arrays = _read(path)
    spaces = {"state": state_space, "action": action_space, "next_state": state_space}
    if context_space is not None:
        spaces["context"] = context_space
    missing = sorted((spaces.keys() | {"terminated"}) - arrays.keys())
    if missing:
        raise ValueError(f"path: got {path} with arrays {sorted(arrays)}, expected {', '.join(missing)} as well")
    n = len(np.atleast_1d(arrays["state"]))
    rows = {name: _rows(path, name, space, arrays[name], n) for name, space in spaces.items()}
    terminated, truncated = (_numbers(path, name, arrays, n, torch.bool) for name in ("terminated", "truncated"))
    assert terminated is not None
    return Batch(
        state=rows["state"],
        context=rows.get("context"),
        action=rows["action"],
        next_state=rows["next_state"],
        terminated=terminated,
        reward=_numbers(path, "reward", arrays, n, torch.float32),
        truncated=truncated,
    )


def load_minari(dataset_id: str, *, max_transitions: int | None = None) -> Recording:
    """Transitions of a Minari dataset on this machine, where `minari download` or one's own recording put it.

    Args:
        dataset_id: such as `mujoco/hopper/medium-v0`.
        max_transitions: end with the episode in which they are reached. None: all.

    Raises:
        ImportError: Minari, or what it reads the dataset with, isn't installed.
        TypeError: spaces that can't be laid out in rows.
        ValueError: no such dataset, or one without any transition.
    """
    try:
        import minari

        dataset = minari.load_dataset(dataset_id)
    except ImportError as error:
        raise ImportError(f"{error}. Install the extra: .venv/bin/pip install -e '.[minari]'") from None
    except FileNotFoundError as error:
        raise ValueError(f"dataset_id: got {dataset_id!r}, expected one on this machine: {error}") from None
    state_space, action_space = dataset.observation_space, dataset.action_space
    check_space("observation_space", state_space)
    check_space("action_space", action_space)
    episodes: list[Batch] = []
    n = 0
    for episode in dataset.iterate_episodes():
        episodes.append(_minari_transitions(episode, state_space, action_space))
        n += len(episodes[-1])
        if max_transitions is not None and n >= max_transitions:
            break
    if n == 0:
        raise ValueError(f"dataset_id: got {dataset_id!r}, which holds no transitions")
    return Recording(concatenate(episodes), state_space, action_space)


def _minari_transitions(episode: Any, state_space: Space[Any], action_space: Space[Any]) -> Batch:
    """The steps of an episode, which has an observation more than actions. It is cut off where it doesn't end."""
    states = to_rows(state_space, episode.observations)
    truncated = torch.from_numpy(np.array(episode.truncations, dtype=bool))
    truncated[-1:] |= not bool(np.any(episode.terminations))
    return Batch(
        state=states[:-1],
        context=None,
        action=to_rows(action_space, episode.actions),
        next_state=states[1:],
        terminated=torch.from_numpy(np.array(episode.terminations, dtype=bool)),
        reward=torch.from_numpy(np.array(episode.rewards, dtype=np.float32)),
        truncated=truncated,
    )


def _read(path: str | PathLike[str]) -> dict[str, NDArray[Any]]:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return dict(file)
    except (zipfile.BadZipFile, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"path: got {path}, expected arrays that numpy.savez wrote: {error}") from None


def _rows(
    path: str | PathLike[str], name: str, space: Space[Any], array: NDArray[Any], n: int
) -> Num[Tensor, "n R"]:
    size = row_size(space)
    if array.dtype.kind not in NUMBERS:
        raise ValueError(f"{name}: got {array.dtype} in {path}, expected numbers")
    if array.size != n * size or len(np.atleast_1d(array)) != n:
        raise ValueError(f"{name}: got shape {array.shape} in {path}, expected {n} rows of {size} for {space}")
    return to_rows(space, array)


def _numbers(
    path: str | PathLike[str], name: str, arrays: dict[str, NDArray[Any]], n: int, dtype: torch.dtype
) -> Tensor | None:
    """A number per transition, if the file has them."""
    if name not in arrays:
        return None
    if arrays[name].shape != (n,) or arrays[name].dtype.kind not in NUMBERS:
        got = f"{arrays[name].dtype} of shape {arrays[name].shape}"
        raise ValueError(f"{name}: got {got} in {path}, expected {n} numbers")
    return torch.from_numpy(arrays[name]).to(dtype)
