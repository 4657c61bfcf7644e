"""Folders that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpsearch.errors import HpsearchError

if sys.platform != "win32":
    import fcntl


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderKind:
    """A kind of folder: what it is called, and every file that may lie in one.

    ``marks`` are the files by which one is known.
    """

    name: str
    marks: frozenset[str]
    files: frozenset[str]


def check_target(target: Path, kind: FolderKind, *, force: bool) -> None:
    """Checks that a folder of that kind may be written there; call it before the work begins.

    A folder that is there and not empty is replaced only if it is of the same kind, holds nothing
    else, and ``force`` says so. What a process that was killed has left of its writing there is
    swept away first, and the folder that it was about to replace put back.

    Raises:
        HpsearchError: it may not, or cannot.
    """
    target = target.expanduser().resolve()
    try:
        _sweep(target)
        _check_place(target, kind, force=force)
    except OSError as exc:
        raise _unwritable(target, exc) from exc


def _check_place(target: Path, kind: FolderKind, *, force: bool) -> None:
    if target.exists() and not target.is_dir():
        raise HpsearchError(f"{target}: found a file, expected a new folder; name another with -o")
    found = {entry.name for entry in target.iterdir()} if target.exists() else set()
    if found:
        _check_replaceable(target, found, kind, force=force)
    above = next((parent for parent in target.parents if parent.exists()), target)
    probe = _beside(above / target.name)  # tried, since permissions alone do not tell
    probe.mkdir()
    with contextlib.suppress(FileNotFoundError):  # swept by somebody who comes at the same time
        probe.rmdir()


def _check_replaceable(target: Path, found: set[str], kind: FolderKind, *, force: bool) -> None:
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
def atomic_folder(target: Path, kind: FolderKind, *, force: bool) -> Iterator[Path]:
    """Yields a folder to write in, and renames it to ``target`` at the end.

    Whatever is raised inside, Ctrl-C included, leaves nothing behind and ``target`` as it was.

    Raises:
        HpsearchError: the folder may not be written there, or cannot.
    """
    check_target(target, kind, force=force)
    target = target.expanduser().resolve()
    draft = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        with _held(draft):
            yield draft
            check_target(target, kind, force=force)  # somebody may have come first
            _install(draft, target)
    except OSError as exc:
        raise _unwritable(target, exc) from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _beside(target: Path) -> Path:
    return target.parent / f".{target.name}-{secrets.token_hex(4)}"


def _aside(draft: Path) -> Path:
    """Where the folder that the draft replaces waits until the draft is in its place."""
    return draft.with_name(f"{draft.name}-old")


def _install(draft: Path, target: Path) -> None:
    aside = _aside(draft)
    try:
        if target.exists():
            target.rename(aside)
        draft.rename(target)
    finally:  # Ctrl-C may come between any two lines
        _settle(aside, target)


def _settle(aside: Path, target: Path) -> None:
    """Puts the old folder back where no new one took its place, else removes it."""
    if aside.exists() and not target.exists():
        aside.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _held(draft: Path) -> Iterator[None]:
    """Holds a lock on the draft, which the kernel releases however this process ends."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(draft, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network disk without locks: nothing is swept there
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _is_left(draft: Path) -> bool:
    """Whether no process writes in the draft any more; no, where that cannot be told."""
    if sys.platform == "win32":
        return False
    try:
        handle = os.open(draft, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _sweep(target: Path) -> None:
    """Removes the drafts of dead processes beside the target, and puts back what one set aside."""
    ours = re.compile(rf"(\.{re.escape(target.name)}-[0-9a-f]{{8}})(-old)?")
    try:
        found = [ours.fullmatch(name) for name in os.listdir(target.parent)]
    except OSError:
        return
    for name in sorted({match[1] for match in found if match}):
        draft = target.parent / name
        if _is_left(draft):
            _settle(_aside(draft), target)
            shutil.rmtree(draft, ignore_errors=True)


def _unwritable(target: Path, exc: OSError) -> HpsearchError:
    return HpsearchError(
        f"{target}: cannot be written ({exc.strerror or exc}); make room or name another with -o"
    )
