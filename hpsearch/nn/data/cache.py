"""Decoded images as memory-mapped files, keyed by content, shared by all processes of a user.

Two levels: ``index/SIGNATURE`` names the content that a source had when its files last changed,
``arrays/CONTENT/`` holds the arrays. Everything is written beside its place and renamed into it,
so a crash leaves nothing half-written and two processes may build at once. It may be deleted at
any time: whoever has mapped the files keeps them, everyone else builds them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.nn.data.arrays import Decoded, Source

_log = logging.getLogger(__name__)

VERSION = 1  # of the layout and of how images are decoded: raise it when either changes
_ARRAYS = ("images", "labels", "moments")
_STALE_SECONDS = 24 * 3600
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, EOFError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Decoded images with their content key and the moments of each image.

    ``images`` (N, H, W, C) uint8; ``labels`` (N,) int64; ``moments`` (N, C, 2) int64 holds each
    channel's sum of values and of squared values, so that the mean and the deviation of any
    split cost no pass over the images. All are read-only.
    """

    content: str
    images: np.ndarray
    labels: np.ndarray
    moments: np.ndarray
    classes: tuple[str, ...]
    sizes: tuple[int, int, int]


def directory() -> Path:
    """Returns where the cache lies: HPSEARCH_CACHE, or hpsearch in the user's cache directory."""
    own = os.environ.get("HPSEARCH_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpsearch"


def fetch(source: Source) -> Stored:
    """Returns the source's arrays from the cache, decoding them into it first where needed.

    Works in memory, and says so, where the cache cannot be written.

    Raises:
        DataError: the source cannot be decoded.
    """
    top = directory() / f"v{VERSION}"
    stored = _look_up(top, source.signature)
    if stored is not None:
        return stored
    decoded = source.decode()
    content = content_key(decoded)
    try:
        _keep(top, decoded, content=content, signature=source.signature)
        stored = _open(top / "arrays" / content)
    except OSError as exc:
        _log.info(
            "cannot write the cache %s (%s); working in memory. Set HPSEARCH_CACHE to a"
            " directory that can be written",
            directory(),
            exc.strerror or exc,
        )
    return stored or _in_memory(decoded, content)


def content_key(decoded: Decoded | Stored) -> str:
    """Returns the hash of the images, labels, class names and given parts."""
    shape = [int(side) for side in decoded.images.shape]
    head = json.dumps([shape, list(decoded.classes), list(decoded.sizes)])
    digest = hashlib.sha256(head.encode())
    for array in (decoded.labels, decoded.images):
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]


def moments(images: np.ndarray) -> np.ndarray:
    """Returns each image's sum and sum of squares by channel, (N, C, 2) int64, exactly."""
    n, height, width, channels = images.shape
    sums = np.empty((n, channels, 2), np.int64)
    step = max(1, 2**20 // (height * width * channels))
    for start in range(0, n, step):
        flat = images[start : start + step].reshape(-1, height * width, channels)
        wide = flat.transpose(0, 2, 1).astype(np.uint16, order="C")  # 255² still fits
        sums[start : start + step, :, 0] = wide.sum(axis=2, dtype=np.int64)
        sums[start : start + step, :, 1] = np.square(wide).sum(axis=2, dtype=np.int64)
    return sums


def _look_up(top: Path, signature: str) -> Stored | None:
    try:
        content = (top / "index" / signature).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return _open(top / "arrays" / content) if content else None


def _open(folder: Path) -> Stored | None:
    """Returns the arrays in the folder, or None where they are missing or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        train, val, test = meta["sizes"]
        stored = Stored(
            content=folder.name,
            classes=tuple(meta["classes"]),
            sizes=(train, val, test),
            **arrays,
        )
        if meta["files"] == _stats(folder) or _is_sound(stored):
            return stored
    except _UNUSABLE:
        pass
    return None


def _is_sound(stored: Stored) -> bool:
    """Whether the arrays are what their key says; asked only when a file's time has changed."""
    return content_key(stored) == stored.content and np.array_equal(
        stored.moments, moments(stored.images)
    )


def _stats(folder: Path) -> dict[str, list[int]]:
    stats = {name: (folder / f"{name}.npy").stat() for name in _ARRAYS}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _keep(top: Path, decoded: Decoded, *, content: str, signature: str) -> None:
    for name in ("arrays", "index"):
        (top / name).mkdir(parents=True, exist_ok=True)
    final = top / "arrays" / content
    if _open(final) is None:
        _sweep(top / "arrays")
        made = _beside(top / "arrays", "new")
        try:
            made.mkdir()
            _write(made, decoded)
            _install(made, final)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    entry = _beside(top / "index", "new")
    entry.write_text(content, encoding="ascii")
    entry.replace(top / "index" / signature)


def _beside(folder: Path, kind: str) -> Path:
    return folder / f".{kind}-{os.getpid()}-{secrets.token_hex(4)}"


def _write(folder: Path, decoded: Decoded) -> None:
    arrays = {
        "images": decoded.images,
        "labels": decoded.labels,
        "moments": moments(decoded.images),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    meta: dict[str, Any] = {
        "classes": decoded.classes,
        "sizes": decoded.sizes,
        "files": _stats(folder),
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _install(made: Path, final: Path) -> None:
    """Renames the new folder into its place, past a damaged one or another process's."""
    for _ in range(3):
        try:
            made.rename(final)
        except OSError:
            if _open(final) is not None:  # another process was faster
                return
            _discard(final)
        else:
            return
    made.rename(final)


def _discard(folder: Path) -> None:
    aside = _beside(folder.parent, "old")
    with contextlib.suppress(OSError):  # gone already: another process discarded it
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(arrays: Path) -> None:
    """Removes what processes that were killed while writing have left behind."""
    for left in [*arrays.glob(".new-*"), *arrays.glob(".old-*")]:
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _in_memory(decoded: Decoded, content: str) -> Stored:
    arrays = (decoded.images, decoded.labels, moments(decoded.images))
    for array in arrays:
        array.setflags(write=False)
    images, labels, sums = arrays
    return Stored(
        content=content,
        images=images,
        labels=labels,
        moments=sums,
        classes=decoded.classes,
        sizes=decoded.sizes,
    )
