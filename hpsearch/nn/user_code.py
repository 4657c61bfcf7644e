"""User code: the functions that a study file names, as ``mypackage.nets:build``, and their errors.

An error in user code is reported in one line with the function, its key in the study file and the
line that failed, so that users do not look for it in hpsearch.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpsearch.core.spec import FactorySpec, StudySpec, TrialSpec
from hpsearch.errors import HpsearchError, SpecError

CODE = "HPSEARCH_CODE"  # the environment variable that names a folder of modules


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contract:
    """The arguments that a user function gets, and the module of hpsearch that calls it."""

    positional: tuple[str, ...]
    keywords: tuple[str, ...] = ()
    caller: str


_CONTRACTS: Mapping[str, _Contract] = {
    "model.factory": _Contract(
        positional=("params", "input_shape", "classes"), caller="hpsearch.nn.models"
    ),
    "train.function": _Contract(
        positional=("model", "data", "spec"),
        keywords=("params", "device", "stop", "progress"),
        caller="hpsearch.nn.training.custom_loop",
    ),
}


def add_import_path(folder: Path | None) -> None:
    """Makes the modules of ``folder`` (None: ``HPSEARCH_CODE``) and the current folder importable.

    Installed modules take precedence, so a file such as ``random.py`` next to a study file does not
    hide the standard library's.
    """
    for path in (folder or os.environ.get(CODE), Path()):
        resolved = str(Path(os.path.expanduser(path)).resolve()) if path is not None else ""
        if resolved and resolved not in sys.path:
            sys.path.append(resolved)
    importlib.invalidate_caches()


def check_allowed(spec: StudySpec, *, is_allowed: bool) -> None:
    """Refuses to run the user code that a study names, unless ``HPSEARCH_CODE`` or the caller does.

    For studies from a database: others may write to it, and the name may select any module that
    is installed or in the current folder. A study file that the user passes needs no permission.

    Raises:
        SpecError: the study names user code, and it is not allowed.
    """
    named = {"model.factory": spec.model.factory, "train.function": spec.train.function}
    code = ", ".join(f"{key} {name!r}" for key, name in named.items() if name is not None)
    if code and not is_allowed and not os.environ.get(CODE):
        raise SpecError(
            f"the database says to import and run {code}, which is not allowed by default; if you"
            " trust everyone who can write to it, pass --allow-code (in Python: allow_code=True) or"
            f" set {CODE} to the folder of the code"
        )


def import_function(key: str, name: str) -> Callable[..., Any]:
    """Imports a function by its name, as ``mypackage.nets:build``; this runs the module.

    Raises:
        SpecError: the module cannot be imported, or has no such function.
    """
    module, _, path = name.partition(":")
    try:
        function: Any = importlib.import_module(module)
    except (Exception, SystemExit) as exc:  # a module may raise anything
        missing = isinstance(exc, ModuleNotFoundError)
        hint = "; install it, run from its folder or set HPSEARCH_CODE to that folder"
        raise SpecError(
            f"{key}: {name!r} cannot be imported: {_one_line(exc)}{hint if missing else ''}"
        ) from exc
    for part in path.split("."):
        if not hasattr(function, part):
            raise SpecError(
                f"{key}: {name!r}: found no {part!r} in it; define it or correct the name"
            )
        function = getattr(function, part)
    if not callable(function):
        raise SpecError(
            f"{key}: {name!r} is of type {type(function).__name__}, expected a function"
        )
    return function  # type: ignore[no-any-return]


def check_user_code(spec: StudySpec, *, folder: Path | None) -> None:
    """Imports the functions that a study names, if any, and checks their signatures.

    Writes no files, not even bytecode. Whether the functions work is checked with the data, see
    :mod:`hpsearch.nn.training.custom_loop`. ``folder`` is as for :func:`add_import_path`.

    Raises:
        SpecError: a function cannot be imported, or does not accept its arguments.
    """
    if spec.has_user_code:
        add_import_path(folder)
    names = {"model.factory": spec.model.factory, "train.function": spec.train.function}
    for key, name in names.items():
        if name is None:
            continue
        # `hpsearch check` promises to write nothing, not even __pycache__
        before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            function = import_function(key, name)
        finally:
            sys.dont_write_bytecode = before
        _check_signature(key, name, function)


def _check_signature(key: str, name: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin or an extension without a signature
        return
    contract = _CONTRACTS[key]
    try:
        signature.bind(*contract.positional, **dict.fromkeys(contract.keywords))
    except TypeError as exc:
        call = ", ".join([*contract.positional, *(f"{word}=…" for word in contract.keywords)])
        raise SpecError(
            f"{key}: {name!r} takes {signature}, but is called with ({call}): {exc}; change it to"
            " accept these arguments"
        ) from exc


def user_functions(trial: TrialSpec) -> dict[str, str]:
    """Returns the names of a trial's user functions by key, in the order in which they run."""
    factory = trial.model.factory if isinstance(trial.model, FactorySpec) else None
    named = {"model.factory": factory, "train.function": trial.train.function}
    return {key: name for key, name in named.items() if name is not None}


@contextlib.contextmanager
def user_code_errors(key: str, name: str) -> Iterator[None]:
    """Turns every exception inside the context into an error of that user function.

    Raises:
        SpecError: an exception other than an :class:`HpsearchError`.
    """
    try:
        yield
    except HpsearchError:
        raise
    except (Exception, SystemExit) as exc:
        raise user_code_error(key, name, exc) from exc


def user_code_error(key: str, name: str, exc: BaseException) -> SpecError:
    """Returns the one-line error that blames an exception on a user function."""
    what = f"{_one_line(exc)}{failing_line(name, exc)}"
    return SpecError(f"{key}: {name!r} fails on this study: {what}")


def failing_user_code(trial: TrialSpec, exc: BaseException) -> tuple[str, str] | None:
    """Returns the user function that raised an exception, and the line; None if none did.

    The line reads `` (nets.py, line 3)``. It is empty if the function returned an illegal value.
    """
    functions = user_functions(trial)
    function, factory = functions.get("train.function"), functions.get("model.factory")
    if function is not None and _passes_through(_CONTRACTS["train.function"].caller, exc):
        return function, failing_line(function, exc)
    if factory is not None:
        line = failing_line(factory, exc)
        if line or _passes_through(_CONTRACTS["model.factory"].caller, exc):
            return factory, line
    return None


def failing_line(name: str, exc: BaseException) -> str:
    """Returns the innermost line of the traceback in the function's package: `` (a.py, line 3)``.

    Empty if the traceback has none.
    """
    package = name.partition(":")[0].partition(".")[0]
    innermost = ""
    # the package, as a function may fail in another module next to its own
    for frame, line in traceback.walk_tb(exc.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            innermost = f" ({Path(frame.f_code.co_filename).name}, line {line})"
    return innermost


def _passes_through(module: str, exc: BaseException) -> bool:
    frames = (frame for frame, _ in traceback.walk_tb(exc.__traceback__))
    return any(frame.f_globals.get("__name__") == module for frame in frames)


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())[:300]
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
