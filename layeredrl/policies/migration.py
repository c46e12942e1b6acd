"""Find, for each tensor of a model, the tensor of an external model that it is to take over."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Migration(NamedTuple):
    """Which external tensor each of the model's tensors takes over, and why the others take none."""

    sources: dict[str, str]
    problems: list[str]


def match(
    own: Mapping[str, Tensor],
    external: Mapping[str, Tensor],
    name_map: Mapping[str, str],
    *,
    auto_mapping: bool,
) -> Migration:
    """Match tensors by `name_map`, then by name, then by shape and kind (weight, bias, or other).

    A match by shape counts only if it is the only one possible, on both sides; anything else would be a guess.

    Args:
        own: the model's tensors.
        external: the external model's.
        name_map: own names to external names.
        auto_mapping: whether to match by anything but `name_map`.

    Raises:
        ValueError: `name_map` names a tensor that doesn't exist, or one of another shape.
    """
    _check_name_map(own, external, name_map)
    sources = dict(name_map)
    candidates: dict[str, list[str]] = {name: [] for name in own if name not in sources}
    if auto_mapping:
        taken = set(sources.values())
        free = {name: tensor for name, tensor in external.items() if name not in taken}
        candidates = {name: _candidates(name, own[name], free) for name in candidates}
        by_name = {name: name for name, names in candidates.items() if name in names}
        sources |= by_name
        candidates = {
            name: [other for other in names if other not in by_name]
            for name, names in candidates.items()
            if name not in by_name
        }
    wanted = Counter(other for names in candidates.values() for other in names)
    problems = []
    for name, names in candidates.items():
        rivals = [rival for rival, theirs in candidates.items() if rival != name and set(theirs) & set(names)]
        if not names:
            problems.append(f"no match for {name} {tuple(own[name].shape)}")
        elif len(names) > 1:
            problems.append(f"ambiguous match for {name}: {', '.join(names)}")
        elif wanted[names[0]] > 1:
            problems.append(f"ambiguous use of {names[0]}: {', '.join([name, *rivals])}")
        else:
            sources[name] = names[0]
    return Migration(sources, problems)


def describe(own: Mapping[str, Tensor], external: Mapping[str, Tensor], migration: Migration) -> str:
    """The tensors of both models, and who takes over what."""
    lines = []
    for title, tensors in (("own", own), ("external", external)):
        lines += [f"{title}: {len(tensors)} tensors"]
        lines += [f"  {name} {tuple(tensor.shape)}" for name, tensor in tensors.items()]
    return "\n".join([*lines, *(f"{name} <- {source}" for name, source in migration.sources.items())])


def _check_name_map(own: Mapping[str, Tensor], external: Mapping[str, Tensor], name_map: Mapping[str, str]) -> None:
    for name, other in name_map.items():
        for which, tensors, key in (("own", own, name), ("external", external, other)):
            if key not in tensors:
                raise ValueError(f"name_map: got the {which} name {key!r}, expected one of {list(tensors)}")
        if own[name].shape != external[other].shape:
            raise ValueError(
                f"name_map: got {other!r} of shape {tuple(external[other].shape)} for {name!r}, "
                f"expected {tuple(own[name].shape)}"
            )


def _candidates(name: str, tensor: Tensor, external: Mapping[str, Tensor]) -> list[str]:
    return [
        other for other, value in external.items() if value.shape == tensor.shape and _kind(other) == _kind(name)
    ]


def _kind(name: str) -> str:
    last = name.rpartition(".")[2]
    return last if last in ("weight", "bias") else "other"
