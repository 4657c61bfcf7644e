"""One dimension of a search space: its values, its legal range, and its entry in a study file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hpsearch.errors import closest, nearest, shown

Value = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatDim:
    """A real interval, both ends included, sampled uniformly or (``log``) log-uniformly."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self)

    def contains(self, value: Value) -> bool:
        """Whether the value lies on the dimension, on a step if it has steps."""
        if isinstance(value, (bool, str)) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        # a tolerance, as 0.3 is not exactly three steps of 0.1
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
            raise ValueError(f"found a choice twice in {shown(list(self.choices))}; name each once")

    def contains(self, value: Value) -> bool:
        """Whether the value is one of the choices."""
        return value in self.choices


Dim = FloatDim | IntDim | ChoiceDim


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
    """Returns values as they are written in a study file, without quotes.

    >>> listed([True, False]), listed([1, "adam"])
    ('true, false', '1, adam')
    """
    return ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The values that a dimension may hold in any space: a type, with a range or choices."""

    kind: type[bool] | type[int] | type[float] | type[str]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()

    def check(self, value: Any) -> Value:
        """Returns the value converted to the domain's type.

        Raises:
            ValueError: the value has another type or lies outside the domain.
        """
        if self.choices:
            # in Python True equals 1 and False 0, but neither may stand for the other
            if value not in self.choices or isinstance(value, bool) != (self.kind is bool):
                close = closest(value, map(str, self.choices)) if isinstance(value, str) else None
                raise ValueError(
                    f"found {shown(value)}, expected one of {listed(self.choices)}"
                    + f"; did you mean {close!r}?" * (close is not None)
                )
            return self.kind(value)
        if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
            raise ValueError(
                f"found {shown(value)}, expected a number from {self.low} to {self.high}"
            )
        if not self.low <= value <= self.high:  # first: int() fails on NaN and infinity
            raise ValueError(f"found {shown(value)}, expected {self.low} to {self.high}")
        if self.kind is int and value != int(value):
            raise ValueError(f"found {shown(value)}, expected a whole number")
        return self.kind(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """An optimizer, and the values that suit it.

    ``momentum`` is None if it has no such dimension. Weight decay is decoupled for AdamW, and an L2
    penalty for the others.
    """

    learning_rate: float
    weight_decay: float
    momentum: float | None = None

    @property
    def rates(self) -> dict[str, float]:
        """The values of the two dimensions that every optimizer has."""
        return {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}


# Validation accuracy on mnist5k after 8 epochs, one seed each: adamw and adam 99.1 %, rmsprop 98.7,
# sgd 98.8 (rmsprop at a third of the rate 98.0, sgd at half of it 98.4). The order is that of the
# choices in the built-in space; `hpsearch.nn.training.loop` has their classes.
OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer(learning_rate=0.1, weight_decay=5e-4, momentum=0.9),
    "adam": Optimizer(learning_rate=6e-3, weight_decay=1e-5),
    "adamw": Optimizer(learning_rate=6e-3, weight_decay=0.02),
    "rmsprop": Optimizer(learning_rate=6e-3, weight_decay=1e-5),
}
WITH_MOMENTUM = tuple(name for name, known in OPTIMIZERS.items() if known.momentum is not None)
RECIPE_OPTIMIZER = "adamw"  # of the first trials, and of a training without a search
CHEAPEST_OPTIMIZER, COSTLIEST_OPTIMIZER = "sgd", "adamw"  # in time and memory per step
SCHEDULES = ("constant", "cosine", "one-cycle")
HEADS = ("flatten", "gap")
MAX_BLOCKS = 12
BLOCK_WIDTHS = tuple(f"width_{block}" for block in range(1, MAX_BLOCKS + 1))

_WIDTH = Domain(kind=int, low=1, high=4096)
# The dimensions of the built-in model and training, in the order of drawing.
BUILT_IN: Mapping[str, Domain] = {
    "n_blocks": Domain(kind=int, low=1, high=MAX_BLOCKS),
    "base_width": _WIDTH,
    "growth": Domain(kind=float, low=0.25, high=4.0),
    "width": _WIDTH,
    **dict.fromkeys(BLOCK_WIDTHS, _WIDTH),
    "kernel_size": Domain(kind=int, choices=(1, 3, 5, 7)),
    "batch_norm": Domain(kind=bool, choices=(False, True)),
    "head": Domain(kind=str, choices=HEADS),
    "dropout": Domain(kind=float, low=0.0, high=0.9),
    "optimizer": Domain(kind=str, choices=tuple(OPTIMIZERS)),
    "momentum": Domain(kind=float, low=0.0, high=0.999),
    "learning_rate": Domain(kind=float, low=1e-8, high=10.0),
    "weight_decay": Domain(kind=float, low=0.0, high=10.0),
    "batch_size": Domain(kind=int, low=1, high=65536),
    "schedule": Domain(kind=str, choices=SCHEDULES),
}


def parse(name: str, raw: Any, *, custom: bool = False) -> Dim | Value:
    """Reads one entry of a ``[space]`` table.

    A table with ``low`` and ``high`` is a range, a list (or a table with ``choices``) is a choice,
    any other value fixes the dimension. With ``custom``, a name that is not built in is a custom
    dimension: its values decide its type, and a range with whole ends holds whole numbers.

    Raises:
        ValueError: an unknown name, an unknown key or an illegal value; the message names it.

    >>> parse("n_blocks", {"low": 1, "high": 5})
    IntDim(low=1, high=5, log=False, step=None)
    >>> parse("optimizer", ["sgd", "adam"])
    ChoiceDim(choices=('sgd', 'adam'))
    >>> parse("dropout", 0)
    0.0
    >>> parse("depth", {"low": 1, "high": 3.0}, custom=True)
    FloatDim(low=1.0, high=3.0, log=False, step=None)
    """
    if name not in BUILT_IN and not custom:
        raise ValueError(f"space.{name}: found an unknown dimension; {nearest(name, BUILT_IN)}")
    domain = BUILT_IN.get(name)
    check = check_custom_value if domain is None else domain.check
    try:
        if domain is None:
            _check_custom_name(name)
        if isinstance(raw, Mapping) and set(raw) == {"choices"}:
            raw = raw["choices"]
        if isinstance(raw, Mapping):
            return _parse_range(raw, domain)
        if isinstance(raw, (list, tuple)):
            return ChoiceDim(choices=tuple(check(value) for value in raw))
        return check(raw)
    except (ValueError, TypeError) as exc:
        raise ValueError(f"space.{name}: {exc}") from exc


def _parse_range(raw: Mapping[str, Any], domain: Domain | None) -> FloatDim | IntDim:
    if domain is None:  # of a custom dimension: any finite numbers, whole if all its ends are
        ends = [raw[key] for key in ("low", "high", "step") if raw.get(key) is not None]
        whole = all(type(end) is int for end in ends)
        domain = Domain(kind=int if whole else float, low=-1e300, high=1e300)
    if domain.choices:
        raise ValueError(
            f"found the range {shown(dict(raw))}, expected a value or a list of {domain.choices}"
        )
    if set(raw) - {"low", "high", "log", "step"} or not {"low", "high"} <= set(raw):
        raise ValueError(
            f"found keys {shown(sorted(raw))}, expected low and high, and optionally log or step"
        )
    log, step = raw.get("log", False), raw.get("step")
    if not isinstance(log, bool):
        raise ValueError(f"found log = {shown(log)}, expected true or false")
    is_number = isinstance(step, (int, float)) and not isinstance(step, bool)
    if step is not None and not (
        is_number and math.isfinite(step) and (domain.kind is not int or step == int(step))
    ):
        number = "a whole number" if domain.kind is int else "a number"
        raise ValueError(f"found step = {shown(step)}, expected {number} above 0")
    low, high = domain.check(raw["low"]), domain.check(raw["high"])
    if domain.kind is int:
        return IntDim(
            low=int(low), high=int(high), log=log, step=None if step is None else int(step)
        )
    return FloatDim(low=float(low), high=float(high), log=log, step=step)


_SIMILAR = 0.9  # of difflib: "learning_rat" scores 0.96 with "learning_rate", "n_block" 0.93


def _check_custom_name(name: str) -> None:
    """Refuses a name that no Python argument can have, or that looks like a misspelled one.

    A built-in name with a number or more words behind it (``dropout_2``) is a legal custom name.
    """
    if not name.isidentifier():
        raise ValueError("found a name with characters other than letters, digits and _; rename it")
    # without width_1 to width_12, which every name that ends in a number resembles
    known = set(BUILT_IN) - set(BLOCK_WIDTHS)
    for word in difflib.get_close_matches(name, known, n=1, cutoff=_SIMILAR):
        rest = name.removeprefix(word)
        if rest == name or not (rest.startswith("_") or rest.isdigit()):
            raise ValueError(
                f"found a name that looks like {word!r}; write that, or choose a more distinct name"
            )


def check_custom_value(value: Any) -> bool | int | float | str:
    """Returns the value of a custom dimension unchanged.

    Raises:
        ValueError: it is neither a finite number, a text nor a boolean.
    """
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, (bool, int, float, str)) or not finite:
        raise ValueError(f"found {shown(value)}, expected a finite number, a text, true or false")
    return value
