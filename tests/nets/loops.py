"""Small members, and the plain loop over them that a stack is held against."""

import copy
from functools import partial

import torch
from torch import nn

E, IN, OUT = 3, 4, 2
inner, last = partial(nn.Linear, IN, 8), partial(nn.Linear, 8, OUT)


def sequential(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


def rows_of_all_kinds(n_rows=6, n_members=E):
    """Inputs of each member: of different signs and sizes."""
    return torch.randn(n_members, n_rows, IN) + torch.tensor([3.0, -3.0, 0.5])[:n_members, None, None]


def grad(x):
    return torch.zeros_like(x) if x.grad is None else x.grad


def assert_equals_a_loop(members, stacked, x):
    """Values, and gradients of every parameter and of the inputs."""
    members, leaves = [copy.deepcopy(m) for m in members], [x.clone().requires_grad_() for _ in range(2)]
    expected = torch.stack([member(rows) for member, rows in zip(members, leaves[0], strict=True)])
    got = stacked(leaves[1])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad, rtol=1e-3, atol=1e-5)
    for name, _ in members[0].named_parameters():
        together = torch.stack([grad(member.get_parameter(name)) for member in members])
        torch.testing.assert_close(grad(stacked.members.get_parameter(name)), together, rtol=1e-3, atol=1e-4)
