"""What makes two studies the same, what may change meanwhile, and how changes are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hpsearch.core.spec import StudySpec, to_dict
from hpsearch.errors import SpecError

# What a running study may change; all else is its identity. The data's identity is its content.
_MAY_CHANGE = ("name", "data.dataset", "pruning", "search")
_SEARCH_IDENTITY = ("search.objectives", "search.seed")

_PARTS = {"train": "training", "val": "validation", "test": "testing"}
_IMAGES = ("content", "split", "shape", "classes", *_PARTS)  # of a fingerprint

Changes = Mapping[str, tuple[Any, Any]]  # by key: what was, and what is now (None: not there)


def identity(spec: StudySpec) -> dict[str, Any]:
    """Returns what makes two studies comparable, as dotted keys: space, split, recipe, seed, …"""
    return {key: value for key, value in dotted(spec).items() if _is_identity(key)}


def steering(spec: StudySpec) -> dict[str, Any]:
    """Returns what may change while a study goes on (sampler, trials, …), as dotted keys."""
    return {key: value for key, value in dotted(spec).items() if not _is_identity(key)}


def _is_identity(key: str) -> bool:
    return key in _SEARCH_IDENTITY or not key.startswith(_MAY_CHANGE)


def dotted(spec: StudySpec) -> dict[str, Any]:
    """Returns all that a study file says, as dotted keys."""
    return _flat(to_dict(spec))


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and not prefix.startswith("space."):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the keys whose values differ, with the old and the new value (None: not there).

    >>> differences({"train.epochs": 8, "a": 1}, {"train.epochs": 9, "a": 1})
    {'train.epochs': (8, 9)}
    """
    keys = sorted(set(old) | set(new))
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def describe_changes(changed: Changes) -> str:
    """Returns what changed, by dotted key; of the images what a person can count, no hashes.

    >>> changed = {"train.epochs": (8, 9), "data.content": ("de", "b9"), "data.train": (84, 85)}
    >>> describe_changes(changed)
    'train.epochs was 8, now 9; the images (84 for training, now 85)'
    """
    images = {f"data.{key}": key for key in _IMAGES}
    told = [
        f"{key} was {old!r}, now {new!r}"
        for key, (old, new) in changed.items()
        if key not in images
    ]
    apart = {images[key]: pair for key, pair in changed.items() if key in images}
    if apart:
        told.append(f"the images ({describe_image_changes(apart)})")
    return "; ".join(told)


def describe_image_changes(changed: Changes) -> str:
    """Returns how images differ, by the keys of their fingerprint.

    >>> describe_image_changes({"content": ("de", "b9"), "split": ("6a", "c2")})
    'as many, but others'
    >>> describe_image_changes({"split": ("6a", "c2")})
    'the same, split otherwise'
    >>> describe_image_changes({"shape": ([1, 8, 8], [3, 16, 16]), "classes": (["a"], ["a", "b"])})
    '8×8×1, now 16×16×3, 1 class, now 2'
    """
    known = {key: pair for key, pair in changed.items() if None not in pair}
    told = [
        f"{known[part][0]:,} for {word}, now {known[part][1]:,}"
        for part, word in _PARTS.items()
        if part in known
    ]
    if "shape" in known:
        told.append(", now ".join(f"{h}×{w}×{c}" for c, h, w in known["shape"]))
    if "classes" in known:
        old, new = known["classes"]
        several = f"{len(old)} class{'es' * (len(old) != 1)}, now {len(new)}"
        told.append("other classes" if len(old) == len(new) else several)
    if told:
        return ", ".join(told)
    return "as many, but others" if "content" in changed else "the same, split otherwise"


def relocated(spec: StudySpec, dataset: str | None) -> StudySpec:
    """Returns the spec with its images looked for there; None leaves them where they are.

    Raises:
        SpecError: that is neither a name nor a path.
    """
    if dataset is None:
        return spec
    try:
        return replace(spec, data=replace(spec.data, dataset=dataset))
    except ValueError as exc:
        raise SpecError(f"--dataset: {exc}") from exc
