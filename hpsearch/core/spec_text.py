"""A spec as text: its study file, the identity of a study, and differences in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hpsearch.core.spec import StudySpec, to_dict

# A running study may change these keys; the rest is its identity. Images are identified by content.
_MAY_CHANGE = ("name", "data.dataset", "pruning", "search")
_SEARCH_IDENTITY = ("search.objectives", "search.seed")

_PARTS = {"train": "training", "val": "validation", "test": "testing"}
_IMAGES = ("content", "split", "shape", "classes", *_PARTS)  # the keys of a fingerprint

Changes = Mapping[str, tuple[Any, Any]]  # by key: the old and the new value (None: absent)


def identity(spec: StudySpec) -> dict[str, Any]:
    """Returns the dotted keys that two runs of one study must share: space, recipe, seed, …"""
    return {key: value for key, value in dotted(spec).items() if _is_identity(key)}


def identity_changes(old: StudySpec, new: StudySpec) -> str:
    """Returns in words why the new spec is another study; empty if it is the same."""
    return describe_changes(differences(identity(old), identity(new)))


def steering(spec: StudySpec) -> dict[str, Any]:
    """Returns the dotted keys that may change during a study: sampler, trials, …"""
    return {key: value for key, value in dotted(spec).items() if not _is_identity(key)}


def _is_identity(key: str) -> bool:
    return key in _SEARCH_IDENTITY or not key.startswith(_MAY_CHANGE)


def dotted(spec: StudySpec) -> dict[str, Any]:
    """Returns every key of the study file, dotted, with its value."""
    return _flat(to_dict(spec))


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        # a dimension of the space is one value: its range or choices change as a whole
        if isinstance(value, Mapping) and not prefix.startswith("space."):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            # lists, as JSON from the database has no tuples to compare with
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the keys whose values differ, with the old and the new value (None: absent).

    >>> differences({"train.epochs": 8, "a": 1}, {"train.epochs": 9, "a": 1})
    {'train.epochs': (8, 9)}
    """
    keys = sorted(set(old) | set(new))
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def describe_changes(changed: Changes) -> str:
    """Returns the changes in words; changes of images as numbers, without hashes.

    >>> changed = {"train.epochs": (8, 9), "data.content": ("de", "b9"), "data.train": (84, 85)}
    >>> describe_changes(changed)
    'train.epochs was 8, now 9; the images (84 for training, now 85)'
    """
    images = {f"data.{key}": key for key in _IMAGES}
    parts = [
        f"{key} was {old!r}, now {new!r}"
        for key, (old, new) in changed.items()
        if key not in images
    ]
    # images are described together, as one fact that all their keys show
    image_changes = {images[key]: pair for key, pair in changed.items() if key in images}
    if image_changes:
        parts.append(f"the images ({describe_image_changes(image_changes)})")
    return "; ".join(parts)


def describe_image_changes(changed: Changes) -> str:
    """Returns in words how images differ, given the differing keys of their fingerprint.

    >>> describe_image_changes({"content": ("de", "b9"), "split": ("6a", "c2")})
    'same number, different content'
    >>> describe_image_changes({"split": ("6a", "c2")})
    'same images, different split'
    >>> describe_image_changes({"shape": ([1, 8, 8], [3, 16, 16]), "classes": (["a"], ["a", "b"])})
    '8×8×1, now 16×16×3, 1 class, now 2'
    """
    known = {key: pair for key, pair in changed.items() if None not in pair}
    parts = [
        f"{known[part][0]:,} for {word}, now {known[part][1]:,}"
        for part, word in _PARTS.items()
        if part in known
    ]
    if "shape" in known:
        parts.append(", now ".join(f"{h}×{w}×{c}" for c, h, w in known["shape"]))
    if "classes" in known:
        old, new = known["classes"]
        several = f"{len(old)} class{'es' * (len(old) != 1)}, now {len(new)}"
        parts.append("different classes" if len(old) == len(new) else several)
    if parts:
        return ", ".join(parts)
    if "content" in changed:
        return "same number, different content"
    return "same images, different split"


def to_toml(spec: StudySpec) -> str:
    """Returns the text of a study file with every key of the spec that is not None.

    >>> from hpsearch.core.dimensions import IntDim
    >>> text = to_toml(StudySpec(name="s", space={"n_blocks": IntDim(low=1, high=5)}))
    >>> text.splitlines()[0], text.splitlines()[-1]
    ('name = "s"', 'n_blocks = { low = 1, high = 5, log = false }')
    """
    plain = to_dict(spec)
    lines = [f"{key} = {_value(v)}" for key, v in plain.items() if not isinstance(v, Mapping)]
    for section, table in plain.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {_value(v)}" for key, v in table.items() if v is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        if set(value) == {"choices"}:
            return _value(value["choices"])
        inner = ", ".join(f"{key} = {_value(v)}" for key, v in value.items() if v is not None)
        return f"{{ {inner} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):  # TOML escapes as JSON does, and DEL too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
