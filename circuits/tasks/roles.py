"""Positions by role: what is the same position in prompts made from different templates.

A mean over prompts at position 13 means something if the same part of the sentence stands at 13 in each. Where it does
not, scores, patches and means go by the role that a position has: in a prompt, all positions of one role belong
together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def role_numbers(roles: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], Tensor]:
    """The roles in the order in which they first appear, and each position's number among them, ``[n, position]``."""
    names = tuple(dict.fromkeys(role for row in roles for role in row))
    number = {name: i for i, name in enumerate(names)}
    return names, torch.tensor([[number[role] for role in row] for row in roles])


def sum_by_role(values: Tensor, roles: Tensor, count: int) -> Tensor:
    """``[n, role, …]`` from ``values [n, position, …]`` and ``roles [n, position]``."""
    index = roles.to(values.device).reshape(*roles.shape, *[1] * (values.ndim - 2)).expand_as(values)
    return values.new_zeros(len(values), count, *values.shape[2:]).scatter_add(1, index, values)


def mean_over_prompts(values: Tensor, roles: Tensor | None) -> Tensor:
    """``values [n, position, …]`` with each position at its mean over prompts: at the same position where ``roles`` is
    None, else over all positions of its role in all prompts."""
    if roles is None:
        return values.mean(0, keepdim=True).expand_as(values)
    roles, count = roles.to(values.device), int(roles.max()) + 1
    flat = sum_by_role(values.flatten(0, 1)[None], roles.flatten()[None], count)[0]
    sizes = torch.bincount(roles.flatten(), minlength=count).reshape(-1, *[1] * (values.ndim - 2))
    return (flat / sizes)[roles]
