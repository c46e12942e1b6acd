"""All figures of a report, by name."""

import torch

from layeredrl.metrics.quality import ModelQuality


def figures(quality: ModelQuality) -> dict[str, torch.Tensor]:
    own = {name: value for name, value in vars(quality).items() if isinstance(value, torch.Tensor)}
    nested = {
        f"{who}.{name}": value
        for who in ("ensemble", "members")
        for name, value in vars(getattr(quality, who)).items()
    }
    return {**own, **nested}


def assert_same_figures(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Alike up to rounding, which may exchange two ranks or move a row over the edge of a bin."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        counts = name.endswith(("correlation", "coverage", "pit_histogram", "calibration_error"))
        atol = 0.02 if counts else 1e-4
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=atol, msg=lambda text, n=name: f"{n}: {text}")
