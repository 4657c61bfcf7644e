"""A person's own code, named in a study file as ``mypackage.nets:build``: found and imported."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpsearch.errors import HpsearchError, SpecError

CODE = "HPSEARCH_CODE"  # the environment variable that names a folder of modules


def look_in(folder: Path | None) -> None:
    """Lets modules be imported from that folder (None: ``HPSEARCH_CODE``) and the current one.

    What is installed goes before, so that a file called ``random.py`` beside a study file takes
    nobody's place.
    """
    for place in (folder or os.environ.get(CODE), Path()):
        path = str(Path(place).resolve()) if place is not None else ""
        if path and path not in sys.path:
            sys.path.append(path)
    importlib.invalidate_caches()


def find(key: str, name: str) -> Callable[..., Any]:
    """Imports what a dotted name stands for: this runs the module.

    Args:
        key: where the name was found, for messages.
        name: module and attribute, as ``mypackage.nets:build``.

    Raises:
        SpecError: the module cannot be imported, or holds no such function.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as exc:  # whatever the module does
        hint = "; install it, be in its folder or name that in HPSEARCH_CODE"
        missing = isinstance(exc, ModuleNotFoundError)
        raise SpecError(f"{key}: {name!r} cannot be imported: {said(exc)}{hint * missing}") from exc
    for part in path.split("."):
        if not hasattr(found, part):
            raise SpecError(f"{key}: {name!r}: found no {part!r} in it; define it or mend the name")
        found = getattr(found, part)
    if not callable(found):
        raise SpecError(f"{key}: {name!r} is of type {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


@contextlib.contextmanager
def told(key: str, name: str) -> Iterator[None]:
    """Tells whatever that code raises as the person's own mistake, in a line that names it."""
    try:
        yield
    except HpsearchError:
        raise
    except Exception as exc:
        raise SpecError(f"{key}: {name!r} fails on this study: {said(exc)}") from exc


def said(exc: BaseException) -> str:
    """Returns an exception in a line.

    >>> said(KeyError("depth"))
    "KeyError: 'depth'"
    """
    text = " ".join(str(exc).split())[:300]
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


__all__ = ["CODE", "find", "look_in", "said", "told"]
