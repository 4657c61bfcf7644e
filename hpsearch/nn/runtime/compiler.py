"""Keeps torch's compiler out: nothing here is compiled, and importing it takes a second or two.

torch imports ``torch._dynamo`` at the first call of an optimizer or of an operation counter, only
to tell it that the call is not to be compiled (1.1 s on an Intel Xeon, 2 s on an AMD EPYC Milan,
torch 2.14.1). Every worker would pay for that at its start. A test watches that it stays out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


def leave_uncompiled(owner: type) -> None:
    """Marks the methods of a class that torch would tell its compiler to leave alone as told."""
    for _, method in inspect.getmembers(owner, inspect.isfunction):
        inner = getattr(method, "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            setattr(inner, "__dynamo_disable", inner)  # the name that torch looks up


def bare_step(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """Returns the optimizer's step without what torch wraps around it for its compiler."""
    step: Any = type(optimizer).step
    while hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    return torch.no_grad()(lambda: step(optimizer))
