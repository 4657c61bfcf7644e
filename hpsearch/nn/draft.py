"""Folders that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpsearch.errors import HpsearchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of folder: what it is called, and every file that may lie in one.

    ``marks`` are the files by which one is known.
    """

    name: str
    marks: frozenset[str]
    files: frozenset[str]


def check_place(target: Path, kind: Kind, *, force: bool) -> None:
    """Checks that a folder of that kind may be written there; call it before the work begins.

    A folder that is there and not empty is replaced only if it is of the same kind, holds nothing
    else, and ``force`` says so.

    Raises:
        HpsearchError: it may not, or cannot.
    """
    target = target.expanduser().resolve()
    try:
        _check_place(target, kind, force=force)
    except OSError as exc:
        raise _unwritable(target, exc) from exc


def _check_place(target: Path, kind: Kind, *, force: bool) -> None:
    if target.exists() and not target.is_dir():
        raise HpsearchError(f"{target}: found a file, expected a new folder; name another with -o")
    found = {entry.name for entry in target.iterdir()} if target.exists() else set()
    if found:
        _check_replaceable(target, found, kind, force=force)
    above = next((parent for parent in target.parents if parent.exists()), target)
    probe = _beside(above / target.name)  # tried, since permissions alone do not tell
    probe.mkdir()
    probe.rmdir()


def _check_replaceable(target: Path, found: set[str], kind: Kind, *, force: bool) -> None:
    strange = sorted(found - kind.files)
    if not kind.marks <= found or strange:
        told = f"a folder with {strange[0]!r} in it" if strange else "another folder"
        raise HpsearchError(
            f"{target}: found {told}, expected no folder, an empty one or a {kind.name} and nothing"
            " else; name another with -o"
        )
    if not force:
        raise HpsearchError(
            f"{target}: found a {kind.name}, expected no folder or an empty one; name another with"
            " -o, or pass --force to replace it"
        )


@contextlib.contextmanager
def drafted(target: Path, kind: Kind, *, force: bool) -> Iterator[Path]:
    """Yields a folder to write in, and renames it to ``target`` at the end.

    Whatever is raised inside, Ctrl-C included, leaves nothing behind and ``target`` as it was.

    Raises:
        HpsearchError: the folder may not be written there, or cannot.
    """
    check_place(target, kind, force=force)
    target = target.expanduser().resolve()
    draft = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        yield draft
        check_place(target, kind, force=force)  # somebody may have come first
        _install(draft, target)
    except OSError as exc:
        raise _unwritable(target, exc) from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _beside(target: Path) -> Path:
    return target.parent / f".{target.name}-{secrets.token_hex(4)}"


def _install(draft: Path, target: Path) -> None:
    aside = draft.with_name(f"{draft.name}-old")
    if target.exists():
        target.rename(aside)
    try:
        draft.rename(target)
    except BaseException:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _unwritable(target: Path, exc: OSError) -> HpsearchError:
    return HpsearchError(
        f"{target}: cannot be written ({exc.strerror or exc}); make room or name another with -o"
    )


__all__ = ["Kind", "check_place", "drafted"]
