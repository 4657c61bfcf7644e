"""A person's own dimensions: what they may be called, and what kind of values they hold."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

_ALIKE = 0.9  # of difflib: "learning_rat" is 0.96 like "learning_rate", "n_block" 0.93


def check_name(name: str, known: Iterable[str]) -> None:
    """Refuses a name that no Python argument could have, or that reads like a built-in one.

    A built-in name with a number or more words after it (``dropout_2``) is a name of its own.

    Raises:
        ValueError: it is not to be used.

    >>> check_name("n_layers", ["n_blocks"])
    >>> check_name("learning_rat", ["learning_rate"])
    Traceback (most recent call last):
    ValueError: found a name that reads like 'learning_rate'; write that, or one less alike
    """
    if not name.isidentifier():
        raise ValueError("found a name with other signs than letters, digits and _; change it")
    for word in difflib.get_close_matches(name, list(known), n=1, cutoff=_ALIKE):
        rest = name.removeprefix(word)
        if rest == name or not (rest.startswith("_") or rest.isdigit()):
            raise ValueError(
                f"found a name that reads like {word!r}; write that, or one less alike"
            )


def kind_of_range(raw: Mapping[str, Any]) -> type[int] | type[float]:
    """Returns int where ``low``, ``high`` and ``step`` are whole, float where one is real.

    >>> kind_of_range({"low": 0, "high": 1}), kind_of_range({"low": 0, "high": 1.0})
    (<class 'int'>, <class 'float'>)
    """
    ends = [raw[key] for key in ("low", "high", "step") if raw.get(key) is not None]
    return int if all(type(end) is int for end in ends) else float


def check_value(value: Any) -> bool | int | float | str:
    """Returns a value that a dimension can hold.

    Raises:
        ValueError: it is none.
    """
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, (bool, int, float, str)) or not finite:
        raise ValueError(f"found {value!r}, expected a finite number, a text, true or false")
    return value
