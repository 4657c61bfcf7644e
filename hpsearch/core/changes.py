"""How a study differs from what it was, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PARTS = {"train": "training", "val": "validation", "test": "testing"}
_IMAGES = ("content", "split", "shape", "classes", *_PARTS)  # of a fingerprint

Changes = Mapping[str, tuple[Any, Any]]  # by key: what was, and what is now (None: not there)


def changes_told(changed: Changes) -> str:
    """Returns what changed, by dotted key; of the images what a person can count, no hashes.

    >>> changes_told({"train.epochs": (8, 9), "data.content": ("de", "b9"), "data.train": (84, 85)})
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
        told.append(f"the images ({images_told(apart)})")
    return "; ".join(told)


def images_told(changed: Changes) -> str:
    """Returns how images differ, by the keys of their fingerprint.

    >>> images_told({"content": ("de", "b9"), "split": ("6a", "c2")})
    'as many, but others'
    >>> images_told({"split": ("6a", "c2")})
    'the same, split otherwise'
    >>> images_told({"shape": ([1, 8, 8], [3, 16, 16]), "classes": (["a"], ["a", "b"])})
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


__all__ = ["Changes", "changes_told", "images_told"]
