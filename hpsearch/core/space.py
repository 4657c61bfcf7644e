"""The search space: its dimensions, which of them a configuration has, and grids over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpsearch.core.dimensions import (
    BLOCK_WIDTHS,
    BUILT_IN,
    HEADS,
    OPTIMIZERS,
    SCHEDULES,
    WITH_MOMENTUM,
    ChoiceDim,
    Dim,
    FloatDim,
    IntDim,
    Value,
    parse,
)
from hpsearch.core.objectives import OBJECTIVES

Space = Mapping[str, Dim | Value]  # a plain value is a dimension that is fixed

TRAINING = ("optimizer", "momentum", "learning_rate", "weight_decay", "batch_size", "schedule")
# These change neither the number of steps nor the duration of one, only how well they train.
_DURATION_NEUTRAL = ("dropout", "momentum", "learning_rate", "weight_decay", "schedule")


def without_effect(objective: str) -> frozenset[str]:
    """Returns the built-in dimensions that cannot change an objective.

    A cost of the net itself (parameters, FLOPs, latency) depends on no training dimension.

    >>> "optimizer" in without_effect("params"), "optimizer" in without_effect("train_seconds")
    (True, False)
    >>> without_effect("accuracy")
    frozenset()
    """
    if objective == "train_seconds":
        return frozenset(_DURATION_NEUTRAL)
    return frozenset((*TRAINING, "dropout") if OBJECTIVES[objective].is_cost else ())


def ordered(names: Iterable[str]) -> list[str]:
    """Returns dimension names in the order of drawing: built-in ones, then custom ones by name.

    >>> ordered(["depth", "optimizer", "act", "n_blocks"])
    ['n_blocks', 'optimizer', 'act', 'depth']
    """
    given = set(names)
    return [*(name for name in BUILT_IN if name in given), *sorted(given - set(BUILT_IN))]


def width_names(n_blocks: int) -> tuple[str, ...]:
    """Returns the names of the per-block widths of a net with that many blocks.

    >>> width_names(2)
    ('width_1', 'width_2')
    """
    return BLOCK_WIDTHS[:n_blocks]


def draw(space: Space, suggest: Callable[[str, Dim], Value]) -> dict[str, Value]:
    """Returns one configuration: every active dimension's value, fixed ones included.

    ``suggest`` is called, in a fixed order, for each active dimension that is not fixed. A width
    exists only if its block exists, momentum only with an optimizer that has it. Without
    ``n_blocks``, as with a custom model, ``width`` is a dimension like any other.

    >>> space = {"n_blocks": 2, "width": IntDim(low=8, high=64), "optimizer": "adam",
    ...          "momentum": 0.9}
    >>> draw(space, lambda name, dim: dim.high)
    {'n_blocks': 2, 'width_1': 64, 'width_2': 64, 'optimizer': 'adam'}
    """
    params: dict[str, Value] = {}

    def add(name: str, dim: Dim | Value) -> None:
        is_dim = isinstance(dim, (FloatDim, IntDim, ChoiceDim))
        params[name] = suggest(name, dim) if is_dim else dim  # type: ignore[arg-type, assignment]

    # n_blocks and optimizer come first in this order, and decide which of the rest are active
    by_block = "width" in space and "n_blocks" in space
    for name in ordered(space):
        if by_block and name in BLOCK_WIDTHS:
            continue
        if by_block and name == "width":
            for block in width_names(int(params["n_blocks"])):
                add(block, space.get(block, space["width"]))
        elif name != "momentum" or params.get("optimizer", WITH_MOMENTUM[0]) in WITH_MOMENTUM:
            add(name, space[name])
    return params


def dims(space: Space) -> dict[str, Dim]:
    """Returns every dimension that is drawn, in the order of drawing, per-block widths spelled out.

    >>> list(dims({"n_blocks": IntDim(low=1, high=2), "width": IntDim(low=8, high=64),
    ...            "optimizer": "sgd", "momentum": 0.9}))
    ['n_blocks', 'width_1', 'width_2']
    """
    drawn: dict[str, Dim] = {}

    def record(name: str, dim: Dim) -> Value:
        drawn[name] = dim
        return dim.choices[-1] if isinstance(dim, ChoiceDim) else dim.high  # the most blocks

    optimizer = space.get("optimizer", WITH_MOMENTUM[0])
    # Momentum is drawn with some optimizers only, so each of them is tried.
    for value in optimizer.choices if isinstance(optimizer, ChoiceDim) else (optimizer,):
        draw({**space, "optimizer": value}, record)
    if isinstance(optimizer, ChoiceDim):
        drawn["optimizer"] = optimizer
    return {name: drawn[name] for name in ordered(drawn)}


_WIDTHS: Mapping[str, Space] = {
    "geometric": {
        "base_width": IntDim(low=4, high=16, log=True),
        "growth": ChoiceDim(choices=(1.0, 1.5, 2.0)),
    },
    "per-block": {"width": IntDim(low=4, high=64, log=True)},
}
_SHARED: Space = {
    "n_blocks": IntDim(low=1, high=5),
    "kernel_size": ChoiceDim(choices=(3, 5)),
    "batch_norm": ChoiceDim(choices=(True, False)),
    "head": ChoiceDim(choices=HEADS),
    "dropout": FloatDim(low=0.0, high=0.5),
    "optimizer": ChoiceDim(choices=tuple(OPTIMIZERS)),
    "momentum": FloatDim(low=0.8, high=0.98),
    "learning_rate": FloatDim(low=3e-4, high=0.1, log=True),
    "weight_decay": FloatDim(low=1e-6, high=0.03, log=True),
    "batch_size": ChoiceDim(choices=(64, 128, 256)),
    "schedule": ChoiceDim(choices=SCHEDULES),
}


def default_space(widths: str) -> dict[str, Dim | Value]:
    """Returns the built-in space, for ``geometric`` or ``per-block`` widths."""
    merged = {**_SHARED, **_WIDTHS[widths]}
    return {name: merged[name] for name in ordered(merged)}


def overlay(
    widths: str,
    raw: Mapping[str, Any],
    *,
    custom_model: bool = False,
    custom_training: bool = False,
) -> dict[str, Dim | Value]:
    """Returns the built-in space, overridden by the entries of a ``[space]`` table.

    A custom model or training does not get the dimensions of the built-in one, unless the table
    names them; the table may then hold custom dimensions.

    Raises:
        ValueError: an unknown or illegal entry, or one that these ``widths`` do not use.
    """
    for name in {} if custom_model else raw:
        other = next((kind for kind in _WIDTHS if kind != widths and name in _WIDTHS[kind]), None)
        if other or (name in BLOCK_WIDTHS and widths == "geometric"):
            raise ValueError(
                f"space.{name}: found with model.widths = {widths!r}, expected only with"
                f" {other or 'per-block'!r}; drop it or change model.widths"
            )
    defaults = {
        name: dim
        for name, dim in default_space(widths).items()
        if not (custom_training if name in TRAINING else custom_model)
    }
    custom = custom_model or custom_training
    given = {name: parse(name, value, custom=custom) for name, value in raw.items()}
    merged = {**defaults, **given}
    return {name: merged[name] for name in ordered(merged)}


_MOST_VALUES = 2**17  # of a grid's dimension: more than a grid may have cells


def grid_values(dim: Dim, points: int) -> tuple[Value, ...]:
    """Returns the values a grid takes from a dimension, lowest first.

    Choices and whole numbers on a linear scale give all their values; floats without a step, and
    whole numbers on a log scale, give ``points`` values, evenly spaced on their scale. A list
    longer than any grid may be is cut.

    >>> grid_values(FloatDim(low=0.001, high=0.1, log=True), 3)
    (0.001, 0.01, 0.1)
    >>> grid_values(IntDim(low=1, high=5), 3)
    (1, 2, 3, 4, 5)
    """
    if isinstance(dim, ChoiceDim):
        return dim.choices
    if isinstance(dim, IntDim) and not dim.log:
        return tuple(range(dim.low, dim.high + 1, dim.step or 1)[:_MOST_VALUES])
    if dim.step is not None:
        # the tolerance keeps the last step if the division falls just short of a whole number
        count = int(min((dim.high - dim.low) / dim.step, _MOST_VALUES) + 1e-9) + 1
        return tuple(dim.low + i * dim.step for i in range(count))
    spaced = (_at_share(dim, i / (points - 1) if points > 1 else 0.5) for i in range(points))
    if isinstance(dim, IntDim):
        return tuple(dict.fromkeys(round(value) for value in spaced))  # without duplicates
    return tuple(spaced)


def _at_share(dim: FloatDim | IntDim, share: float) -> float:
    if dim.log:
        value = math.exp(math.log(dim.low) * (1 - share) + math.log(dim.high) * share)
    else:
        value = dim.low * (1 - share) + dim.high * share
    # 12 digits: 0.01 rather than 0.010000000000000002
    return min(max(float(f"{value:.12g}"), dim.low), dim.high)


def cells(space: Space, names: Sequence[str], points: int) -> Iterator[dict[str, Value]]:
    """Yields the grid's cells: every combination of the named dimensions that can exist.

    A cell omits dimensions that are not active in it, so no configuration is repeated. The last
    name varies fastest.

    >>> space = {"n_blocks": IntDim(low=1, high=2), "optimizer": ChoiceDim(choices=("sgd", "adam"))}
    >>> [tuple(cell.values()) for cell in cells(space, ["n_blocks", "optimizer"], 3)]
    [(1, 'sgd'), (1, 'adam'), (2, 'sgd'), (2, 'adam')]
    """

    # Which dimensions exist depends on the values chosen so far, so a plain product will not do.
    def expand(chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
        """Finds the first named dimension without a value, and recurses with each of its values."""
        undecided: dict[str, Dim] = {}

        def suggest(name: str, dim: Dim) -> Value:
            if name in chosen:
                return chosen[name]
            if name in names:
                undecided.setdefault(name, dim)
            # not its list of values, which may be long: this one only decides which others exist
            return dim.choices[0] if isinstance(dim, ChoiceDim) else dim.low

        draw(space, suggest)
        if not undecided:
            yield chosen
            return
        name, dim = next(iter(undecided.items()))
        for value in grid_values(dim, points):
            yield from expand({**chosen, name: value})

    return expand({})
