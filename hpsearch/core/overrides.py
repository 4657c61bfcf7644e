"""``--set name=value``: values for a queued trial, and configurations to train without a search.

``hpsearch enqueue`` presets dimensions of a study and stays inside its space. ``hpsearch train``
overrides a trial, or the default configuration, and may leave any space.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpsearch.core.dimensions import (
    BUILT_IN,
    OPTIMIZERS,
    WITH_MOMENTUM,
    ChoiceDim,
    Dim,
    FloatDim,
    IntDim,
    Value,
    check_custom_value,
    listed,
)
from hpsearch.core.initial_trials import RECIPE
from hpsearch.core.space import Space, dims, draw, width_names
from hpsearch.core.spec import RecipeSpec, ShapeSpec, StudySpec, geometric_widths
from hpsearch.errors import SpecError, nearest


def parse_in_space(space: Space, settings: Sequence[str]) -> dict[str, Value]:
    """Reads ``name=value`` settings as presets of the study's drawn dimensions.

    A fixed dimension may be named with the value it has; it is left out of the result.

    Raises:
        SpecError: a setting is malformed, names no dimension, lies outside the space, or has no
            effect together with the others.

    >>> from hpsearch.core.space import default_space
    >>> parse_in_space(default_space("geometric"), ["learning_rate=0.01", "n_blocks=3"])
    {'learning_rate': 0.01, 'n_blocks': 3}
    """
    drawn = dims(space)
    chosen: dict[str, Value] = {}
    for name, text in _split(settings):
        # An unknown name has no type; the check below refuses it.
        is_known = name in drawn or not isinstance(space.get(name), (Dim, type(None)))
        chosen[name] = _parse_value(name, text, space) if is_known else text
    return check_in_space(space, chosen)


def check_in_space(space: Space, values: Mapping[str, Any]) -> dict[str, Value]:
    """Returns the values as presets of the study's drawn dimensions, each in its dimension's type.

    A fixed dimension may have its own value; it is left out of the result.

    Raises:
        SpecError: a name is no dimension, or a value lies outside the space, or has no effect
            together with the others.

    >>> from hpsearch.core.space import default_space
    >>> check_in_space(default_space("geometric"), {"learning_rate": 0.01, "n_blocks": 3.0})
    {'learning_rate': 0.01, 'n_blocks': 3}
    """
    drawn = dims(space)
    chosen: dict[str, Value] = {}
    for name, value in values.items():
        if name not in drawn:
            _check_fixed(name, value, space, drawn)
            continue
        dim = drawn[name]
        chosen[name] = _typed(name, value)
        if not dim.contains(chosen[name]):
            if isinstance(dim, ChoiceDim):
                legal = f"one of {listed(dim.choices)}"
            else:
                steps = f" in steps of {dim.step}" if dim.step else ""
                legal = f"{dim.low} to {dim.high}{steps}"
            raise SpecError(
                f"--set {name}: found {chosen[name]!r}, the study searches {legal}; choose from"
                " that"
            )
        # 3.0 is a whole number, and 1 may stand for a choice of 1.0.
        if isinstance(dim, ChoiceDim):
            chosen[name] = dim.choices[dim.choices.index(chosen[name])]
        else:
            chosen[name] = (int if isinstance(dim, IntDim) else float)(chosen[name])

    # a configuration that has as few dimensions as the settings allow
    def suggest(name: str, dim: Dim) -> Value:
        if name in chosen:
            return chosen[name]
        if isinstance(dim, ChoiceDim):  # momentum must come with an optimizer that has it
            return next((c for c in dim.choices if c not in WITH_MOMENTUM), dim.choices[0])
        return dim.low

    _check_effective(sorted(chosen), draw(space, suggest))
    return chosen


def _typed(name: str, value: Any) -> Value:
    """Returns a value in the type of its dimension; of a custom one, unchanged."""
    try:
        return BUILT_IN[name].check(value) if name in BUILT_IN else check_custom_value(value)
    except ValueError as exc:
        raise SpecError(f"--set {name}: {exc}") from exc


def _split(settings: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the name and the text of each ``name=value`` setting."""
    seen = set()
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not name or not equals or not text:
            raise SpecError(f"--set: found {setting!r}, expected NAME=VALUE")
        if name in seen:
            raise SpecError(f"--set {name}: found it twice, expected it once; keep one")
        seen.add(name)
        yield name, text


_BOOLEANS: Mapping[str, Value] = {"true": True, "false": False}


def _parse_value(name: str, text: str, space: Space) -> Value:
    """Converts a dimension's text; ``space`` must have the dimension if it is a custom one."""
    if name not in BUILT_IN:
        return _parse_custom_value(name, text, space[name])
    domain = BUILT_IN[name]
    raw: Value = text
    if domain.kind is bool:
        raw = _BOOLEANS.get(text.lower(), text)
    elif domain.kind in (int, float):
        try:
            number = float(text)
        except ValueError as exc:
            raise SpecError(f"--set {name}: found {text!r}, expected a number") from exc
        raw = int(number) if domain.kind is int and number.is_integer() else number
    try:
        return domain.check(raw)
    except ValueError as exc:
        raise SpecError(f"--set {name}: {exc}") from exc


def _parse_custom_value(name: str, text: str, dim: Dim | Value) -> Value:
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


def _check_fixed(name: str, value: Any, space: Space, drawn: Mapping[str, Dim]) -> None:
    """Refuses a name that no trial draws, except a fixed dimension with its own value."""
    fixed = space.get(name)
    if fixed is None or isinstance(fixed, Dim):
        what = "an unknown dimension" if fixed is None else "one that no trial of the study draws"
        raise SpecError(f"--set {name}: found {what}; {nearest(name, drawn)}")
    if _typed(name, value) != fixed:
        raise SpecError(
            f"--set {name}: found {listed([value])}, but the study fixes it at {listed([fixed])};"
            " leave it out"
        )


def _check_effective(names: Iterable[str], active: Mapping[str, Value]) -> None:
    """Refuses a setting of a dimension that the configuration does not have."""
    for name in names:
        if name not in active and name != "width":  # which stands for the width of each block
            optimizer = f"optimizer={WITH_MOMENTUM[0]}"
            other = optimizer if name == "momentum" else f"n_blocks={_block(name)}"
            raise SpecError(f"--set {name}: has no effect with the other values; add --set {other}")


def _block(width: str) -> int:
    """Returns 2 for ``width_2``."""
    return int(width.rpartition("_")[2])


# The built-in net of `hpsearch train` without a trial: widths 16-32-64.
_DEFAULT_NET: Mapping[str, Value] = {
    "n_blocks": 3,
    "base_width": 16,
    "growth": 2.0,
    "kernel_size": 3,
    "batch_norm": True,
}
_GEOMETRIC = ("base_width", "growth")
_RECIPE_KEYS = ("label_smoothing", "shift", "rotate", "flip")
_WIDEST = 4096  # channels: no cap on widths that the user sets


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Values set by the user: of dimensions, and of the recipe that all trials share."""

    params: Mapping[str, Value]
    recipe: Mapping[str, Value]


def parse_overrides(settings: Sequence[str], custom_space: Space | None = None) -> Overrides:
    """Reads ``name=value`` settings for a training; they may lie outside the study's space.

    ``custom_space`` is the space of a study with user code: its names are legal then, instead of
    those of the built-in model and training.

    Raises:
        SpecError: a setting is malformed, has an unknown name or an illegal value.

    >>> parse_overrides(["n_blocks=3", "learning_rate=0.01", "shift=2"])
    Overrides(params={'n_blocks': 3, 'learning_rate': 0.01}, recipe={'shift': 2})
    """
    known = BUILT_IN if custom_space is None else custom_space
    params: dict[str, Value] = {}
    recipe: dict[str, Value] = {}
    for name, text in _split(settings):
        if name in _RECIPE_KEYS:
            recipe[name] = _parse_recipe_value(name, text)
        elif name in known:
            params[name] = _parse_value(name, text, custom_space or {})
        else:
            hint = nearest(name, [*known, *_RECIPE_KEYS])
            raise SpecError(f"--set {name}: found an unknown name; {hint}")
    return Overrides(params=params, recipe=recipe)


def _parse_recipe_value(name: str, text: str) -> Value:
    kind = type(getattr(RecipeSpec(), name))
    try:
        value: Value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as exc:
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise SpecError(f"--set {name}: found {text!r}, expected {expected}") from exc
    return value


def default_configuration(
    spec: StudySpec, overrides: Overrides
) -> tuple[StudySpec, dict[str, Value]]:
    """Returns the spec and values of a configuration without a trial, for :func:`spec.resolve`.

    Dimensions without an override get the values of :data:`core.initial_trials.RECIPE`.

    Raises:
        SpecError: an override is illegal or has no effect together with the others.
    """
    if spec.has_user_code:
        raise SpecError(
            f"found no trial selected of study {spec.name!r}, whose custom model or training"
            " function has no default recipe; select one with --trial N, --knee or --best accuracy"
        )
    uncapped = dataclasses.replace(spec, model=ShapeSpec(widths="geometric", max_width=_WIDEST))
    optimizer = OPTIMIZERS[str(overrides.params.get("optimizer", RECIPE["optimizer"]))]
    start = {**_DEFAULT_NET, **RECIPE, **optimizer.rates}
    # --set width_5=… implies five blocks
    blocks = [_block(name) for name in overrides.params if _is_block_width(name)]
    if blocks:
        start["n_blocks"] = max(blocks)
    return apply_overrides(uncapped, start, overrides)


def apply_overrides(
    spec: StudySpec, params: Mapping[str, Value], overrides: Overrides
) -> tuple[StudySpec, dict[str, Value]]:
    """Returns the spec and values of a trial with ``params`` after the overrides.

    Widths by block replace a base width with its growth, and the other way round; a block without
    a width gets that of the block before it.

    Raises:
        SpecError: an override is illegal or has no effect together with the others.
    """
    changed: dict[str, Any] = dict(overrides.recipe)
    try:
        spec = dataclasses.replace(spec, train=dataclasses.replace(spec.train, **changed))
    except ValueError as exc:
        raise SpecError(f"--set {str(exc).removeprefix('train.')}") from exc
    merged = {**params, **overrides.params}
    # a custom model may use the names of widths for dimensions of its own
    if spec.model.factory is None:
        spec, merged = _with_widths(spec, params, overrides.params)
    # the trial may have been drawn with an optimizer without momentum
    optimizer = OPTIMIZERS.get(str(merged.get("optimizer")))
    if optimizer is not None and optimizer.momentum is not None:
        merged.setdefault("momentum", optimizer.momentum)
    active = draw(merged, lambda name, dim: merged[name])
    _check_effective(overrides.params, active)
    return spec, active


def _is_block_width(name: str) -> bool:
    return name.startswith("width_")


def _with_widths(
    spec: StudySpec, params: Mapping[str, Value], changed: Mapping[str, Value]
) -> tuple[StudySpec, dict[str, Value]]:
    """Returns the spec and values with widths in one form: by block, or base width and growth."""
    merged = {**params, **changed}
    by_block = [name for name in changed if name == "width" or _is_block_width(name)]
    geometric = [name for name in changed if name in _GEOMETRIC]
    if by_block and geometric:
        raise SpecError(
            f"--set: found {by_block[0]} and {geometric[0]}, expected widths by block, or a base"
            " width and its growth; keep one"
        )
    if geometric and spec.model.widths == "per-block":
        # the first block's width is the natural base of the widths that replace it
        spec = dataclasses.replace(spec, model=ShapeSpec(widths="geometric", max_width=_WIDEST))
        merged = {"base_width": merged["width_1"], "growth": _DEFAULT_NET["growth"], **merged}
    if by_block or spec.model.widths == "per-block":
        merged = _by_block(spec, params, changed)
        spec = dataclasses.replace(spec, model=ShapeSpec(widths="per-block"))
    return spec, merged


def _by_block(
    spec: StudySpec, params: Mapping[str, Value], changed: Mapping[str, Value]
) -> dict[str, Value]:
    """Returns the values with a width for each block, instead of a base width and its growth."""
    merged = {**params, **changed}
    names = width_names(int(merged["n_blocks"]))
    known = params
    if spec.model.widths == "geometric":
        # blocks that the user does not name keep the widths that they have now
        base, growth = int(merged["base_width"]), float(merged["growth"])
        grown = geometric_widths(len(names), base, growth, spec.model.max_width)
        known = dict(zip(names, grown, strict=True))
    if "width" in changed:
        known = dict.fromkeys(names, changed["width"])
    widths: dict[str, Value] = {}
    last: Value = 1
    for name in names:
        last = changed.get(name, known.get(name, last))
        widths[name] = last
    replaced = ("width", *_GEOMETRIC)
    rest = {n: v for n, v in merged.items() if n not in replaced and not _is_block_width(n)}
    return {**rest, **widths, "width": 1}  # "width" makes draw() read the width of each block
