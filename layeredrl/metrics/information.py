"""How much a model could learn from a transition: the score by which it knows where it has never been."""

import torch
from jaxtyping import Float
from torch import Tensor


def epistemic_information(
    epistemic_var: Float[Tensor, "*batch S"], aleatoric_var: Float[Tensor, "*batch S"]
) -> Float[Tensor, "*batch"]:
    """Nats that the next state would tell about which member is right: ½ Σ log(1 + epistemic / aleatoric).

    It is the mutual information of next state and member (Houlsby et al. 2011; Depeweg et al. 2018, eq. 5) if
    members share their noise, and theirs and the ensemble's are Gaussians of independent dimensions. A disagreement
    counts by how it compares with the noise, so neither units nor dimensions that are noisy everywhere decide.
    Other than the exact one, it isn't bounded by log E, and goes on telling far from farther. 0 where all agree.

    Args:
        epistemic_var: variance of the members' means.
        aleatoric_var: variance within members, which is positive.
    """
    if not bool((aleatoric_var > 0).all()):
        raise ValueError(f"aleatoric_var: got {aleatoric_var.min().item()}, expected positive variances")
    return 0.5 * torch.log1p(epistemic_var / aleatoric_var).sum(dim=-1)
