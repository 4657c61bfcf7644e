"""The search space as data: dimensions, which of them are active, and how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hpsearch.core import custom_dimensions as own_dims
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.errors import closest, nearest

Value = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatDim:
    """A real interval, both ends included; evenly drawn, or evenly in its logarithm."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self)

    def contains(self, value: Value) -> bool:
        """Whether the value lies on the dimension (a step's grid included)."""
        if isinstance(value, (bool, str)) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntDim:
    """A range of whole numbers, both ends included."""

    low: int
    high: int
    log: bool = False
    step: int | None = None

    def __post_init__(self) -> None:
        _check_range(self)

    def contains(self, value: Value) -> bool:
        """Whether the value is a whole number on the dimension."""
        if isinstance(value, (bool, str)) or value != int(value):
            return False
        return self.low <= value <= self.high and (int(value) - self.low) % (self.step or 1) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceDim:
    """A list of distinct values without an order."""

    choices: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("found an empty list of choices, expected at least one; add a value")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"found a choice twice in {list(self.choices)}; name each once")

    def contains(self, value: Value) -> bool:
        """Whether the value is one of the choices."""
        return value in self.choices


Dim = FloatDim | IntDim | ChoiceDim
Space = Mapping[str, Dim | Value]  # a plain value is a dimension that is fixed


def _check_range(dim: FloatDim | IntDim) -> None:
    if not (math.isfinite(dim.low) and math.isfinite(dim.high)):
        raise ValueError(f"found low {dim.low} and high {dim.high}, expected finite numbers")
    if dim.low > dim.high:
        raise ValueError(f"found low {dim.low} above high {dim.high}; swap them")
    if dim.log and dim.low <= 0:
        raise ValueError(f"found low {dim.low} with log, expected a low above 0; raise it")
    if dim.log and dim.step is not None:
        raise ValueError(f"found step {dim.step} with log, expected one or the other; drop one")
    if dim.step is not None and dim.step <= 0:
        raise ValueError(f"found step {dim.step}, expected a step above 0")


def listed(values: Iterable[Value]) -> str:
    """Returns values as a person types them.

    >>> listed([True, False]), listed([1, "adam"])
    ('true, false', '1, adam')
    """
    return ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a dimension of that name may hold at all: a kind and its legal values."""

    kind: type[bool] | type[int] | type[float] | type[str]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()

    def check(self, value: Any) -> Value:
        """Returns the value in the dimension's kind.

        Raises:
            ValueError: the value is of another kind or outside the legal range.
        """
        if self.choices:
            if value not in self.choices or isinstance(value, bool) != (self.kind is bool):
                close = closest(value, map(str, self.choices)) if isinstance(value, str) else None
                raise ValueError(
                    f"found {value!r}, expected one of {listed(self.choices)}"
                    + f"; did you mean {close!r}?" * (close is not None)
                )
            return self.kind(value)
        if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
            raise ValueError(f"found {value!r}, expected a number from {self.low} to {self.high}")
        if not self.low <= value <= self.high:  # first: NaN and infinity cannot be made whole
            raise ValueError(f"found {value!r}, expected {self.low} to {self.high}")
        if self.kind is int and value != int(value):
            raise ValueError(f"found {value!r}, expected a whole number")
        return self.kind(value)


def _is_step(step: Any, kind: type) -> bool:
    """Whether it is a finite number, a whole one where the dimension's kind is int."""
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not math.isfinite(step):
        return False
    return kind is not int or step == int(step)


OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "cosine", "one-cycle")
HEADS = ("flatten", "gap")
MAX_BLOCKS = 12

_WIDTH = Known(kind=int, low=1, high=4096)
KNOWN: Mapping[str, Known] = {
    "n_blocks": Known(kind=int, low=1, high=MAX_BLOCKS),
    "base_width": _WIDTH,
    "growth": Known(kind=float, low=0.25, high=4.0),
    "width": _WIDTH,
    **{f"width_{block}": _WIDTH for block in range(1, MAX_BLOCKS + 1)},
    "kernel_size": Known(kind=int, choices=(1, 3, 5, 7)),
    "batch_norm": Known(kind=bool, choices=(False, True)),
    "head": Known(kind=str, choices=HEADS),
    "dropout": Known(kind=float, low=0.0, high=0.9),
    "optimizer": Known(kind=str, choices=OPTIMIZERS),
    "momentum": Known(kind=float, low=0.0, high=0.999),
    "learning_rate": Known(kind=float, low=1e-8, high=10.0),
    "weight_decay": Known(kind=float, low=0.0, high=10.0),
    "batch_size": Known(kind=int, low=1, high=65536),
    "schedule": Known(kind=str, choices=SCHEDULES),
}
TRAINING = ("optimizer", "momentum", "learning_rate", "weight_decay", "batch_size", "schedule")
# What changes neither how many steps there are nor what one takes; it may decide how well they do.
_ONLY_VALUES = ("dropout", "momentum", "learning_rate", "weight_decay", "schedule")
_BLOCK_WIDTHS = frozenset(f"width_{block}" for block in range(1, MAX_BLOCKS + 1))
_ANY = 1e300  # what the numbers of an own dimension stay below


def without_effect(objective: str) -> frozenset[str]:
    """Returns the dimensions of the built-in net and training that cannot change an objective.

    Of what is the net's alone all that training is; of its seconds what is only a number in it.

    >>> "optimizer" in without_effect("params"), "optimizer" in without_effect("train_seconds")
    (True, False)
    >>> without_effect("accuracy")
    frozenset()
    """
    if objective == "train_seconds":
        return frozenset(_ONLY_VALUES)
    return frozenset((*TRAINING, "dropout") if OBJECTIVES[objective].is_cost else ())


def ordered(names: Iterable[str]) -> list[str]:
    """Returns the names of dimensions in the order of drawing: the known ones, then own ones.

    >>> ordered(["depth", "optimizer", "act", "n_blocks"])
    ['n_blocks', 'optimizer', 'act', 'depth']
    """
    given = set(names)
    return [*(name for name in KNOWN if name in given), *sorted(given - set(KNOWN))]


def parse(name: str, raw: Any, *, own: bool = False) -> Dim | Value:
    """Reads one entry of a ``[space]`` table.

    A table with ``low`` and ``high`` is a range, a list (or a table with ``choices``) is a choice,
    anything else fixes the dimension to that value. With ``own``, a name that is not known is a
    dimension of the person's own: what it holds is told by its values, and whole ends make a range
    of whole numbers.

    Raises:
        ValueError: an unknown name, an unknown key or an illegal value; the message names it.

    >>> parse("n_blocks", {"low": 1, "high": 5})
    IntDim(low=1, high=5, log=False, step=None)
    >>> parse("optimizer", ["sgd", "adam"])
    ChoiceDim(choices=('sgd', 'adam'))
    >>> parse("dropout", 0)
    0.0
    """
    if name not in KNOWN and not own:
        raise ValueError(f"space.{name}: found an unknown dimension; {nearest(name, KNOWN)}")
    try:
        return _parse_known(KNOWN[name], raw) if name in KNOWN else _parse_own(name, raw)
    except (ValueError, TypeError) as exc:
        raise ValueError(f"space.{name}: {exc}") from exc


def _parse_own(name: str, raw: Any) -> Dim | Value:
    own_dims.check_name(name, set(KNOWN) - _BLOCK_WIDTHS)
    if isinstance(raw, Mapping) and set(raw) == {"choices"}:
        raw = raw["choices"]
    if isinstance(raw, Mapping):
        kind = own_dims.kind_of_range(raw)
        return _parse_known(Known(kind=kind, low=-_ANY, high=_ANY), raw)
    if isinstance(raw, (list, tuple)):
        return ChoiceDim(choices=tuple(own_dims.check_value(value) for value in raw))
    return own_dims.check_value(raw)


def _parse_known(known: Known, raw: Any) -> Dim | Value:
    if isinstance(raw, Mapping) and set(raw) == {"choices"}:
        raw = raw["choices"]
    if isinstance(raw, (list, tuple)):
        return ChoiceDim(choices=tuple(known.check(value) for value in raw))
    if not isinstance(raw, Mapping):
        return known.check(raw)
    if known.choices:
        raise ValueError(
            f"found the range {dict(raw)}, expected a value or a list of {known.choices}"
        )
    unknown = set(raw) - {"low", "high", "log", "step"}
    if unknown or not {"low", "high"} <= set(raw):
        raise ValueError(
            f"found keys {sorted(raw)}, expected low and high, and log or step if wanted"
        )
    log, step = raw.get("log", False), raw.get("step")
    if not isinstance(log, bool):
        raise ValueError(f"found log = {log!r}, expected true or false")
    if step is not None and not _is_step(step, known.kind):
        raise ValueError(f"found step = {step!r}, expected a {known.kind.__name__} above 0")
    low, high = known.check(raw["low"]), known.check(raw["high"])
    if known.kind is int:
        return IntDim(
            low=int(low), high=int(high), log=log, step=None if step is None else int(step)
        )
    return FloatDim(low=float(low), high=float(high), log=log, step=step)


def width_names(n_blocks: int) -> tuple[str, ...]:
    """The names of the per-block widths of a net of that depth.

    >>> width_names(2)
    ('width_1', 'width_2')
    """
    return tuple(f"width_{block}" for block in range(1, n_blocks + 1))


def draw(space: Space, suggest: Callable[[str, Dim], Value]) -> dict[str, Value]:
    """Returns one configuration: every active dimension's value, fixed ones included.

    ``suggest`` is asked, in a fixed order, for each active dimension that is not fixed. A width
    exists only where its block exists, momentum only with SGD. Where there are no blocks, as in a
    net of the person's own, ``width`` is a dimension like any other.

    >>> space = {"n_blocks": 2, "width": IntDim(low=8, high=64), "optimizer": "adam",
    ...          "momentum": 0.9}
    >>> draw(space, lambda name, dim: dim.high)
    {'n_blocks': 2, 'width_1': 64, 'width_2': 64, 'optimizer': 'adam'}
    """
    params: dict[str, Value] = {}

    def take(name: str, dim: Dim | Value) -> None:
        is_dim = isinstance(dim, (FloatDim, IntDim, ChoiceDim))
        params[name] = suggest(name, dim) if is_dim else dim  # type: ignore[arg-type, assignment]

    by_block = "width" in space and "n_blocks" in space
    for name in ordered(space):
        if by_block and name in _BLOCK_WIDTHS:
            continue
        if by_block and name == "width":
            for block in width_names(int(params["n_blocks"])):
                take(block, space.get(block, space["width"]))
        elif name != "momentum" or params.get("optimizer", "sgd") == "sgd":
            take(name, space[name])
    return params


def dims(space: Space) -> dict[str, Dim]:
    """Returns every dimension that is drawn, in the order of drawing, per-block widths spelled out.

    >>> list(dims({"n_blocks": IntDim(low=1, high=2), "width": IntDim(low=8, high=64),
    ...            "optimizer": "sgd", "momentum": 0.9}))
    ['n_blocks', 'width_1', 'width_2']
    """
    found: dict[str, Dim] = {}

    def note(name: str, dim: Dim) -> Value:
        found[name] = dim
        return _last(dim)

    for optimizer in _values(space.get("optimizer", "sgd")):
        draw({**space, "optimizer": optimizer}, note)
    if isinstance(optimizers := space.get("optimizer"), (ChoiceDim,)):
        found["optimizer"] = optimizers
    return {name: found[name] for name in ordered(found)}


def _values(dim: Dim | Value) -> tuple[Value, ...]:
    return dim.choices if isinstance(dim, ChoiceDim) else (dim,)  # type: ignore[return-value]


def _last(dim: Dim) -> Value:
    return dim.choices[-1] if isinstance(dim, ChoiceDim) else dim.high


_SHAPE: Mapping[str, Space] = {
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
    "optimizer": ChoiceDim(choices=OPTIMIZERS),
    "momentum": FloatDim(low=0.8, high=0.98),
    "learning_rate": FloatDim(low=3e-4, high=0.1, log=True),
    "weight_decay": FloatDim(low=1e-6, high=0.03, log=True),
    "batch_size": ChoiceDim(choices=(64, 128, 256)),
    "schedule": ChoiceDim(choices=SCHEDULES),
}


def default_space(widths: str) -> dict[str, Dim | Value]:
    """Returns the built-in space, for ``geometric`` or ``per-block`` widths."""
    merged = {**_SHARED, **_SHAPE[widths]}
    return {name: merged[name] for name in KNOWN if name in merged}


def overlay(
    widths: str, raw: Mapping[str, Any], *, own_model: bool = False, own_training: bool = False
) -> dict[str, Dim | Value]:
    """Returns the built-in space with the entries of a ``[space]`` table laid over it.

    With a model or a training of the person's own, what the built-in one would need is left out
    unless the table names it, and the table may hold dimensions of the person's own.

    Raises:
        ValueError: an unknown or illegal entry, or one that ``widths`` has no use for.
    """
    for name in {} if own_model else raw:
        other = next((kind for kind in _SHAPE if kind != widths and name in _SHAPE[kind]), None)
        if other or (name in _BLOCK_WIDTHS and widths == "geometric"):
            raise ValueError(
                f"space.{name}: found with model.widths = {widths!r}, expected only with"
                f" {other or 'per-block'!r}; drop it or change model.widths"
            )
    needed = {
        name: dim
        for name, dim in default_space(widths).items()
        if not (own_training if name in TRAINING else own_model)
    }
    own = own_model or own_training
    merged = {**needed, **{name: parse(name, value, own=own) for name, value in raw.items()}}
    return {name: merged[name] for name in ordered(merged)}
