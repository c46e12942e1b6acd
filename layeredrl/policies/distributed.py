"""Parameters and gradients shared by the processes of a `torch.distributed` group."""

import torch
import torch.distributed as dist
from torch import nn


@torch.no_grad()
def broadcast(module: nn.Module, source: int) -> None:
    """Give every process the parameters and buffers of process `source`."""
    for tensor in (*module.parameters(), *module.buffers()):
        sent = tensor.contiguous()
        dist.broadcast(sent, src=source)
        tensor.copy_(sent)


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """Replace each gradient by its mean over the processes, which must have gradients of the same parameters."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if not gradients:
        return
    # One message for all: what a message costs hardly depends on its length.
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together, op=dist.ReduceOp.SUM)
    together /= dist.get_world_size()
    for gradient, part in zip(gradients, together.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
