"""Decoded images as memory-mapped files, keyed by content, shared by all processes of a user.

``index/SIGNATURE`` names the content that a source had when its files last changed;
``arrays/CONTENT/`` holds the arrays. The cache may be deleted at any time: a process keeps the
files that it has mapped, and the next load builds them again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpsearch.nn.data.arrays import Decoded, Source
from hpsearch.util.atomic import atomic_write, temporary_folder

_log = logging.getLogger(__name__)

VERSION = 1  # of the layout and the decoding: raise it when either changes
_ARRAYS = ("images", "labels", "moments")
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Decoded images with their content key and the moments of each image.

    ``images`` (N, H, W, C) uint8; ``labels`` (N,) int64; ``moments`` (N, C, 2) int64 holds each
    channel's sum of values and of squared values: the mean and the deviation of any split can be
    computed without reading the images. All are read-only.
    """

    content: str
    images: np.ndarray
    labels: np.ndarray
    moments: np.ndarray
    classes: tuple[str, ...]
    sizes: tuple[int, int, int]


def directory() -> Path:
    """Returns the cache's folder: HPSEARCH_CACHE, or hpsearch in the user's cache directory."""
    chosen = os.environ.get("HPSEARCH_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpsearch"


def fetch(source: Source) -> Stored:
    """Returns the source's arrays from the cache, decoding them into it first if needed.

    Logs a line and returns arrays in memory if the cache cannot be written.

    Raises:
        DataError: the source cannot be decoded.
    """
    top = directory() / f"v{VERSION}"
    entry = top / "index" / source.signature
    try:
        stored = _open(top / "arrays" / entry.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        stored = None
    if stored is not None:
        return stored
    decoded = source.decode()
    sums = moments(decoded.images)
    folder = top / "arrays" / content_key(decoded)
    try:
        _store(folder, decoded, sums)
        entry.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(entry, folder.name)
    except OSError as exc:
        if _open(folder) is None:  # else another process has stored the same content
            _log.info(
                "cannot write the cache %s (%s); working in memory. Set HPSEARCH_CACHE to a"
                " directory that can be written",
                directory(),
                exc.strerror or exc,
            )
    # as mapped files are, so that code that writes to them fails in either case
    for array in (decoded.images, decoded.labels, sums):
        array.setflags(write=False)
    return _open(folder) or Stored(
        content=folder.name,
        images=decoded.images,
        labels=decoded.labels,
        moments=sums,
        classes=decoded.classes,
        sizes=decoded.sizes,
    )


def content_key(decoded: Decoded) -> str:
    """Returns the hash of the images, labels, class names and part sizes."""
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
    step = max(1, 2**20 // (height * width * channels))  # bounds the memory of the 16-bit copy
    for start in range(0, n, step):
        flat = images[start : start + step].reshape(-1, height * width, channels)  # (B, H * W, C)
        wide = flat.transpose(0, 2, 1).astype(np.uint16, order="C")  # (B, C, H * W); 255² fits
        sums[start : start + step, :, 0] = wide.sum(axis=2, dtype=np.int64)
        sums[start : start + step, :, 1] = np.square(wide).sum(axis=2, dtype=np.int64)
    return sums


def _open(folder: Path) -> Stored | None:
    """Returns the arrays in the folder, or None if they are missing, damaged or were changed."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["files"] != _stats(folder):
            return None
        train, val, test = meta["sizes"]
        return Stored(
            content=folder.name,
            classes=tuple(meta["classes"]),
            sizes=(train, val, test),
            **{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS},
        )
    except _DAMAGE:
        return None


def _stats(folder: Path) -> dict[str, list[int]]:
    """Returns the size in bytes and the time of the last change of each array's file."""
    stats = {name: (folder / f"{name}.npy").stat() for name in _ARRAYS}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _store(folder: Path, decoded: Decoded, sums: np.ndarray) -> None:
    if _open(folder) is not None:  # the same content from another place
        return
    with temporary_folder(folder) as new:
        for name, array in zip(_ARRAYS, (decoded.images, decoded.labels, sums), strict=True):
            np.save(new / f"{name}.npy", array)
        meta = {"classes": decoded.classes, "sizes": decoded.sizes, "files": _stats(new)}
        (new / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        if _open(folder) is None:  # else another process was faster
            shutil.rmtree(folder, ignore_errors=True)  # it is damaged, or not there
            new.rename(folder)
