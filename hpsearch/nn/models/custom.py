"""Nets of the person's own, built by the function that a study file names.

The contract of ``[model] factory = "mypackage.nets:build"``::

    def build(params: Mapping[str, bool | int | float | str],
              input_shape: tuple[int, int, int], classes: int) -> torch.nn.Module

``params`` holds the trial's values of all dimensions but those of the training; ``input_shape`` is
(C, H, W). The net maps images (N, C, H, W) float32, of mean 0 and deviation 1 per channel and
channels-last in memory, to logits (N, classes). torch is seeded before each call, so the same trial
begins with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hpsearch.core.dimensions import Value
from hpsearch.core.spec import FactorySpec
from hpsearch.nn.user_code import find

KEY = "model.factory"
Builder = Callable[[Mapping[str, Value], tuple[int, int, int], int], nn.Module]


def assemble(
    spec: FactorySpec,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    builder: Builder | None = None,
) -> nn.Module:
    """Returns the net that the spec's factory builds, or that ``builder`` does in its place.

    Raises:
        SpecError: there is no such factory.
        TypeError: it returned something else than a net with tensors that can be trained.
    """
    net: Any = (builder or find(KEY, spec.factory))(dict(spec.params), input_shape, classes)
    if not isinstance(net, nn.Module):
        raise TypeError(f"returned {type(net).__name__}, expected a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise TypeError("returned a net without a parameter that can be trained")
    strange = [k for k, value in net.state_dict().items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise TypeError(f"returned a net whose state holds {strange[0]!r}, which is no tensor")
    return net
