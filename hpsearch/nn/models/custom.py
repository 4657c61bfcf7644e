"""Custom models, built by the function that a study file names.

The contract of ``[model] factory = "mypackage.nets:build"``::

    def build(params: Mapping[str, bool | int | float | str],
              input_shape: tuple[int, int, int], classes: int) -> torch.nn.Module

``params`` holds the trial's values of all dimensions except those of the training; ``input_shape``
is (C, H, W). The model maps images (N, C, H, W) float32, with mean 0 and standard deviation 1 per
channel and channels-last in memory, to logits (N, classes). torch is seeded before each call, so
the same trial starts with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hpsearch.core.dimensions import Value
from hpsearch.core.spec import FactorySpec
from hpsearch.nn.user_code import import_function

KEY = "model.factory"
Builder = Callable[[Mapping[str, Value], tuple[int, int, int], int], nn.Module]


def assemble(
    spec: FactorySpec,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    builder: Builder | None = None,
) -> nn.Module:
    """Returns the model that ``builder`` (None: the spec's factory) builds.

    Raises:
        SpecError: the factory cannot be imported.
        TypeError: it returned no module, one without trainable parameters, or one whose state holds
            anything but tensors.
    """
    build = builder or import_function(KEY, spec.factory)
    net: Any = build(dict(spec.params), input_shape, classes)
    if not isinstance(net, nn.Module):
        raise TypeError(f"returned {type(net).__name__}, expected a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise TypeError("returned a net without a trainable parameter, expected at least one")
    for name, value in net.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"returned a net whose state holds {name!r}, expected tensors only")
    return net
