"""Standard normal noise that is correlated over time, so that candidates push long enough in one direction.

Every element of the results has variance 1; only its correlation with earlier and later ones differs.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def coloured_noise(
    shape: tuple[int, ...],
    beta: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = torch.device("cpu"),
) -> Float[Tensor, "*shape"]:
    """Gaussian noise whose power falls with frequency f as 1 / f^β along the last but one axis.

    White for β = 0, a random walk's colour for β = 2 (Timmer & Koenig 1995; Pinneri et al. 2020, section 3.1).
    The constant component has the power of the lowest frequency.

    Args:
        shape: `(…, H, R)`, time on the last but one axis.
        beta: the exponent β, at least 0.
    """
    *leading, horizon, size = shape
    white = torch.randn(*leading, size, horizon, generator=generator, device=device)
    if beta > 0 and horizon > 1:
        frequency = torch.fft.rfftfreq(horizon, device=device)
        amplitude = frequency.clamp_min(1 / horizon) ** (-beta / 2)
        # Each frequency but the constant and, if H is even, the last stands for its negative twin as well.
        twins = torch.full_like(amplitude, 2.0)
        twins[0] = 1.0
        if horizon % 2 == 0:
            twins[-1] = 1.0
        amplitude = amplitude * torch.sqrt(horizon / (twins * amplitude.square()).sum())
        white = torch.fft.irfft(amplitude * torch.fft.rfft(white), n=horizon)
    return rearrange(white, "... r h -> ... h r")


def smooth_noise(white: Float[Tensor, "*batch H R"], smoothing: float) -> Float[Tensor, "*batch H R"]:
    """First-order autoregression along time, ε'ₜ = s ε'ₜ₋₁ + √(1 − s²) εₜ, from its stationary law on.

    With s = 1 − β, the smoothing of Nagabandi et al. 2019 (eq. 3), scaled such that the variance stays 1.
    """
    if smoothing == 0:
        return white
    fresh = math.sqrt(1 - smoothing**2)
    smooth = [white[..., 0, :]]
    for noise in white.unbind(dim=-2)[1:]:
        smooth.append(smoothing * smooth[-1] + fresh * noise)
    return torch.stack(smooth, dim=-2)
