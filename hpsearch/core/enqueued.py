"""A configuration given by hand, checked against a study's space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hpsearch.core.space import (
    KNOWN,
    ChoiceDim,
    Dim,
    FloatDim,
    IntDim,
    Space,
    Value,
    dims,
    draw,
    listed,
)
from hpsearch.errors import SpecError, nearest


def parse_settings(space: Space, settings: Sequence[str]) -> dict[str, Value]:
    """Reads ``name=value`` settings into the drawn dimensions that they settle.

    A fixed dimension may be named with the value it has; it is left out of the result.

    Raises:
        SpecError: a setting is not of that form, names no dimension, lies outside the space, or
            has no effect beside the others.

    >>> from hpsearch.core.space import default_space
    >>> parse_settings(default_space("geometric"), ["learning_rate=0.01", "n_blocks=3"])
    {'learning_rate': 0.01, 'n_blocks': 3}
    """
    drawn = dims(space)
    chosen: dict[str, Value] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not name or not equals or not text:
            raise SpecError(f"--set: found {setting!r}, expected NAME=VALUE")
        if name in chosen:
            raise SpecError(f"--set {name}: found it twice, expected it once; keep one")
        if name in drawn:
            chosen[name] = _inside(name, parse_value(name, text, space), drawn[name])
        else:
            _check_fixed(name, text, space, drawn)
    _refuse_idle(space, chosen)
    return chosen


def _check_fixed(name: str, text: str, space: Space, drawn: Mapping[str, Dim]) -> None:
    """Refuses what no trial draws, unless it is a fixed dimension with the value that it has."""
    fixed = space.get(name)
    if fixed is None or isinstance(fixed, Dim):
        what = "an unknown dimension" if fixed is None else "one that no trial of the study draws"
        raise SpecError(f"--set {name}: found {what}; {nearest(name, drawn)}")
    if parse_value(name, text, space) != fixed:
        raise SpecError(
            f"--set {name}: found {text}, but the study fixes it at {listed([fixed])}; leave it out"
        )


def parse_value(name: str, text: str, space: Space) -> Value:
    """Returns the value of a dimension that was typed as ``text``.

    ``space`` tells what a dimension of the person's own holds; it must have that dimension.

    Raises:
        SpecError: it is of another kind, or not legal for that dimension.
    """
    if name not in KNOWN:
        return _own_value(name, text, space[name])
    known = KNOWN[name]
    raw: Value = text
    if known.kind is bool:
        raw = {"true": True, "false": False}.get(text.lower(), text)
    elif known.kind in (int, float):
        try:
            number = float(text)
        except ValueError as exc:
            raise SpecError(f"--set {name}: found {text!r}, expected a number") from exc
        raw = int(number) if known.kind is int and number.is_integer() else number
    try:
        return known.check(raw)
    except ValueError as exc:
        raise SpecError(f"--set {name}: {exc}") from exc


def _own_value(name: str, text: str, dim: Dim | Value) -> Value:
    if not isinstance(dim, (FloatDim, IntDim)):
        legal = dim.choices if isinstance(dim, ChoiceDim) else (dim,)
        for value in legal:
            if text in (str(value), str(value).lower()):
                return value
        raise SpecError(f"--set {name}: found {text!r}, expected one of {listed(legal)}")
    kind, expected = (int, "a whole number") if isinstance(dim, IntDim) else (float, "a number")
    try:
        value = kind(text)
    except ValueError as exc:
        raise SpecError(f"--set {name}: found {text!r}, expected {expected}") from exc
    if not math.isfinite(value):
        raise SpecError(f"--set {name}: found {text!r}, expected {expected} that is finite")
    return value


def _inside(name: str, value: Value, dim: Dim) -> Value:
    if dim.contains(value):
        return value
    if isinstance(dim, ChoiceDim):
        legal = f"one of {listed(dim.choices)}"
    else:
        legal = f"{dim.low} to {dim.high}" + (f" in steps of {dim.step}" if dim.step else "")
    raise SpecError(f"--set {name}: found {value!r}, the study searches {legal}; choose from that")


def _refuse_idle(space: Space, chosen: Mapping[str, Value]) -> None:
    def suggest(name: str, dim: Dim) -> Value:
        if name in chosen:
            return chosen[name]
        if isinstance(dim, ChoiceDim):
            return next((c for c in dim.choices if c != "sgd"), dim.choices[0])
        return dim.low

    idle = set(chosen) - set(draw(space, suggest))
    if idle:
        name = min(idle)
        needs = "optimizer=sgd" if name == "momentum" else f"n_blocks={name.rpartition('_')[2]}"
        raise SpecError(f"--set {name}: has no effect beside the others; add --set {needs}")
