"""A person's own code, named in a study file as ``mypackage.nets:build``: found and imported."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hpsearch.core.spec import StudySpec
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


def check(spec: StudySpec, *, folder: Path | None) -> None:
    """Imports the code that a study names, if any; it must take what it will be given.

    Writes nothing, not even the modules' bytecode. Whether it works is known with the data alone,
    see :mod:`hpsearch.nn.training.smoke_test`.

    Args:
        spec: the study.
        folder: where its modules are looked for, as in :func:`look_in`.

    Raises:
        SpecError: it cannot be imported, is no function, or cannot be called so.
    """
    named = {"model.factory": spec.model.factory, "train.function": spec.train.function}
    if spec.has_user_code:
        look_in(folder)
    for key, name in named.items():
        if name is not None:
            with _without_bytecode():
                function = find(key, name)
            _check_call(key, name, function)


_GIVEN: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # by position, by name
    "model.factory": (("params", "input_shape", "classes"), ()),
    "train.function": (("model", "data", "spec"), ("params", "device", "stop", "progress")),
}


def _check_call(key: str, name: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of code that is not Python's, which does not tell
        return
    by_position, by_name = _GIVEN[key]
    try:
        signature.bind(*by_position, **dict.fromkeys(by_name))
    except TypeError as exc:
        given = ", ".join([*by_position, *(f"{word}=…" for word in by_name)])
        raise SpecError(
            f"{key}: {name!r} takes {signature}, but is called with ({given}): {exc}; let it take"
            " those"
        ) from exc


@contextlib.contextmanager
def _without_bytecode() -> Iterator[None]:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextlib.contextmanager
def told(key: str, name: str) -> Iterator[None]:
    """Tells whatever that code raises as the person's own mistake, in a line that names it."""
    try:
        yield
    except HpsearchError:
        raise
    except (Exception, SystemExit) as exc:
        raise blamed(key, name, exc) from exc


def blamed(key: str, name: str, exc: BaseException) -> SpecError:
    """Returns what is told of an exception in the person's own code, and where in it that was."""
    return SpecError(f"{key}: {name!r} fails on this study: {said(exc)}{place(name, exc)}")


def place(name: str, exc: BaseException) -> str:
    """Returns the innermost line of theirs that the exception went through, as `` (a.py, line 3)``.

    Empty where it went through none.
    """
    package = name.partition(":")[0].partition(".")[0]
    found = ""
    for frame, line in traceback.walk_tb(exc.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            found = f" ({Path(frame.f_code.co_filename).name}, line {line})"
    return found


def went_through(module: str, exc: BaseException) -> bool:
    """Whether the exception went through that module."""
    frames = (frame for frame, _ in traceback.walk_tb(exc.__traceback__))
    return any(frame.f_globals.get("__name__") == module for frame in frames)


def said(exc: BaseException) -> str:
    """Returns an exception in a line.

    >>> said(KeyError("depth"))
    "KeyError: 'depth'"
    """
    text = " ".join(str(exc).split())[:300]
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
