"""A configuration set by hand: single values laid over a trial's, or over a good recipe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hpsearch.core.initial_trials import RECIPE
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
    width_names,
)
from hpsearch.core.spec import RecipeSpec, ShapeSpec, StudySpec, geometric_widths
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
    _refuse_unused_values(space, chosen)
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


def _refuse_unused_values(space: Space, chosen: Mapping[str, Value]) -> None:
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


# What a net is where nothing is said: 16-32-64.
_NET: Mapping[str, Value] = {
    "n_blocks": 3,
    "base_width": 16,
    "growth": 2.0,
    "kernel_size": 3,
    "batch_norm": True,
}
# The recipe's learning rate and weight decay are AdamW's; the others' decay is an L2 penalty.
# Validation accuracy on mnist5k after 8 epochs, one seed each: adamw and adam 99.1 %, rmsprop 98.7,
# sgd 98.8 (rmsprop at a third of the rate 98.0, sgd at half of it 98.4).
_OF_OPTIMIZERS: Mapping[str, Mapping[str, Value]] = {
    "adamw": {},
    "adam": {"weight_decay": 1e-5},
    "rmsprop": {"weight_decay": 1e-5},
    "sgd": {"learning_rate": 0.1, "weight_decay": 5e-4},
}
_MOMENTUM = 0.9  # of SGD, where a trial's optimizer had none
_GEOMETRIC = ("base_width", "growth")
_RECIPE_KEYS = ("label_smoothing", "shift", "rotate", "flip")
WIDEST = 4096  # channels: no cap for widths that were typed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was set by hand: values of dimensions, and of what all trainings have in common."""

    params: Mapping[str, Value]
    recipe: Mapping[str, Value]


def read_settings(texts: Sequence[str], own: Space | None = None) -> Settings:
    """Reads ``name=value`` settings; unlike a queued trial's they may lie outside any space.

    ``own`` is the space of a study with a net or training of the person's own: then its names are
    known too, and what the built-in ones do with theirs is not.

    Raises:
        SpecError: a setting is not of that form, has an unknown name or an illegal value.

    >>> read_settings(["n_blocks=3", "learning_rate=0.01", "shift=2"])
    Settings(params={'n_blocks': 3, 'learning_rate': 0.01}, recipe={'shift': 2})
    """
    params: dict[str, Value] = {}
    recipe: dict[str, Value] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise SpecError(f"--set: found {text!r}, expected NAME=VALUE")
        if name in params or name in recipe:
            raise SpecError(f"--set {name}: found it twice, expected it once; keep one")
        if name in _RECIPE_KEYS:
            recipe[name] = _recipe_value(name, value)
        elif name in (KNOWN if own is None else own):
            params[name] = parse_value(name, value, own or {})
        else:
            known = nearest(name, [*(KNOWN if own is None else own), *_RECIPE_KEYS])
            raise SpecError(f"--set {name}: found an unknown name; {known}")
    return Settings(params=params, recipe=recipe)


def _recipe_value(name: str, text: str) -> Value:
    default = getattr(RecipeSpec(), name)
    if isinstance(default, bool):
        value: Value | None = {"true": True, "false": False}.get(text.lower())
    else:
        try:
            value = type(default)(text)
        except ValueError:
            value = None
    if value is None:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise SpecError(f"--set {name}: found {text!r}, expected {kind}")
    return value


def by_hand(spec: StudySpec, settings: Settings) -> tuple[StudySpec, dict[str, Value]]:
    """Returns a spec and the values that make up the configuration, where no trial is chosen.

    What the settings leave open is a recipe known to be good (:data:`core.opening.RECIPE`).
    Resolve them with :func:`hpsearch.core.spec.resolve`.

    Raises:
        SpecError: a setting is illegal or has no effect beside the others.
    """
    if spec.has_own_code:
        raise SpecError(
            f"found no trial chosen of study {spec.name!r}, whose net or training is your own and"
            " has no recipe; name one with --trial N, --knee or --best accuracy"
        )
    uncapped = dataclasses.replace(spec, model=ShapeSpec(widths="geometric", max_width=WIDEST))
    optimizer = str(settings.params.get("optimizer", RECIPE["optimizer"]))
    start = {**_NET, **RECIPE, **_OF_OPTIMIZERS[optimizer]}
    blocks = [int(name.rpartition("_")[2]) for name in settings.params if _is_block_width(name)]
    if blocks:
        start["n_blocks"] = max(blocks)
    return laid_over(uncapped, start, settings)


def laid_over(
    spec: StudySpec, params: Mapping[str, Value], settings: Settings
) -> tuple[StudySpec, dict[str, Value]]:
    """Returns a spec and values: the trial's ``params`` with the settings over them.

    Widths by block take the place of a base width with its growth, and the other way round; a
    block without a width takes that of the block before it.

    Raises:
        SpecError: a setting is illegal or has no effect beside the others.
    """
    merged = {**params, **settings.params}
    spec = _with_recipe(spec, settings.recipe)
    if spec.model.factory is not None:
        return spec, _active(merged, settings)
    typed = [name for name in settings.params if name == "width" or _is_block_width(name)]
    clashing = [name for name in settings.params if name in _GEOMETRIC]
    if typed and clashing:
        raise SpecError(
            f"--set: found {typed[0]} and {clashing[0]}, expected widths by block, or a base width"
            " and its growth; keep one"
        )
    if clashing and spec.model.widths == "per-block":
        spec = dataclasses.replace(spec, model=ShapeSpec(widths="geometric", max_width=WIDEST))
        merged = {"base_width": merged["width_1"], "growth": _NET["growth"], **merged}
    if typed or spec.model.widths == "per-block":
        merged = _by_block(spec, params, settings.params)
        spec = dataclasses.replace(spec, model=ShapeSpec(widths="per-block"))
    return spec, _active(merged, settings)


def _active(merged: dict[str, Value], settings: Settings) -> dict[str, Value]:
    if "optimizer" in merged:
        merged.setdefault("momentum", _MOMENTUM)
    active = draw(merged, lambda name, dim: merged[name])
    _refuse_idle(settings.params, active)
    return active


def _is_block_width(name: str) -> bool:
    return name.startswith("width_")


def _by_block(
    spec: StudySpec, params: Mapping[str, Value], typed: Mapping[str, Value]
) -> dict[str, Value]:
    """The values with a width for each block, in place of a base width and its growth."""
    merged = {**params, **typed}
    names = width_names(int(merged["n_blocks"]))
    if spec.model.widths == "geometric":
        base, growth = int(merged["base_width"]), float(merged["growth"])
        cap = spec.model.max_width
        known: Mapping[str, Value] = dict(
            zip(names, geometric_widths(len(names), base, growth, cap), strict=True)
        )
    else:
        known = params
    if "width" in typed:
        known = dict.fromkeys(names, typed["width"])
    widths: dict[str, Value] = {}
    last: Value = 1
    for name in names:
        if name in typed or name in known:
            last = typed[name] if name in typed else known[name]
        widths[name] = last
    left = ("width", *_GEOMETRIC)
    rest = {n: v for n, v in merged.items() if n not in left and not _is_block_width(n)}
    return {**rest, **widths, "width": 1}  # the last: that each block has a width of its own


def _with_recipe(spec: StudySpec, recipe: Mapping[str, Value]) -> StudySpec:
    try:
        changed: dict[str, Any] = dict(recipe)
        return dataclasses.replace(spec, train=dataclasses.replace(spec.train, **changed))
    except ValueError as exc:
        raise SpecError(f"--set {str(exc).removeprefix('train.')}") from exc


def _refuse_idle(typed: Mapping[str, Value], active: Mapping[str, Value]) -> None:
    idle = [name for name in typed if name not in active and name != "width"]
    if idle:
        name = idle[0]
        needs = "optimizer=sgd" if name == "momentum" else f"n_blocks={name.rpartition('_')[2]}"
        raise SpecError(f"--set {name}: has no effect beside the others; add --set {needs}")
