"""Settings of a run for TensorBoard's HParams tab."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams


class Hyperparameters:
    """Lists the run in the HParams tab, with its settings and the latest values of some of its scalars.

    Unlike with `SummaryWriter.add_hparams`, which writes settings and final values to a run of their own, the run
    itself is listed, from its start on and even if it never comes to its end.

    Args:
        writer: of the run.
        settings: by name; those of nested mappings as `outer.inner`.
        metrics: tags of scalars.
    """

    def __init__(self, writer: SummaryWriter, settings: Mapping[str, Any], metrics: Sequence[str]):
        self._file = cast(FileWriter, writer.file_writer)  # torch says None
        experiment, start, self._end = hparams(flatten(settings), dict.fromkeys(metrics))
        self._file.add_summary(experiment)
        self._file.add_summary(start)

    def finish(self) -> None:
        """The run has come to its end."""
        self._file.add_summary(self._end)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str]:
    """Numbers and strings by dotted name. What is neither becomes a string; even None, which would be left out."""
    flat: dict[str, int | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            flat[prefix + name] = value if is_number else str(value)
    return flat
