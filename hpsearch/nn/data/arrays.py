"""Decoded image data and its checks, common to all sources; and ``.npz`` files as a source."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpsearch.errors import DataError, is_text, shown
from hpsearch.util.atomic import open_regular

PARTS = ("train", "val", "test")
SMALLEST = 8  # pixels a side
MOST_PACKED = 1032  # bytes that one byte of a gzip or zip file can stand for
_CHANNELS = (1, 3, 4)
_PACKED = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: MOST_PACKED}  # as NumPy writes them
_READ_HEADER = {  # version 3.0 differs in the names of fields, which images have not
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Images as arrays: training first, then validation, then test.

    ``images`` is (N, H, W, C) uint8, ``labels`` (N,) int64, both contiguous. ``sizes`` counts the
    images of each part; validation and test may be 0, and are then cut from training later.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    sizes: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Data whose files exist, not yet decoded.

    ``signature`` changes when one of the files does; ``decode`` raises DataError.
    """

    name: str
    signature: str
    decode: Callable[[], Decoded]


def sign(*values: object) -> str:
    """Returns the hash of values that JSON can hold.

    >>> sign("npz", "/a.npz", 12) == sign("npz", "/a.npz", 12) != sign("npz", "/b.npz", 12)
    True
    """
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def reason(exc: BaseException) -> str:
    """Returns the exception's message, in one short line."""
    line = " ".join(str(exc).split()) or type(exc).__name__
    return line if len(line) <= 200 else line[:200].rsplit(" ", 1)[0] + " …"


def stat(path: Path) -> tuple[str, int, int]:
    """Returns the path, the size in bytes and the time of the last change in nanoseconds.

    Raises:
        DataError: the file cannot be examined.
    """
    try:
        info = path.stat()
    except OSError as exc:
        raise DataError(
            f"{path}: cannot be read ({exc.strerror}), expected a data file;"
            " check the path and its permissions"
        ) from exc
    return str(path.absolute()), info.st_size, info.st_mtime_ns


def joined(
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]], *, classes: tuple[str, ...], origin: str
) -> Decoded:
    """Returns the parts, each of images (N, H, W, C) and labels (N,), checked and concatenated.

    Raises:
        DataError: sizes differ, images are too small, labels are out of range, or a class has no
            training image.
    """
    shapes = {name: images.shape[1:] for name, (images, _) in parts.items()}
    for name, shape in shapes.items():
        if shape != shapes["train"]:
            raise DataError(
                f"{origin}: found {name} images of {_size(shape)} and training images of"
                f" {_size(shapes['train'])}, expected one size; resize them"
            )
    check_labels({name: labels for name, (_, labels) in parts.items()}, classes, origin)
    height, width, _ = shapes["train"]
    if min(height, width) < SMALLEST:
        raise DataError(
            f"{origin}: found images of {height}×{width} pixels, expected at least"
            f" {SMALLEST}×{SMALLEST}; enlarge them first"
        )
    present = [parts[name] for name in PARTS if name in parts]
    train, val, test = (len(parts[name][1]) if name in parts else 0 for name in PARTS)
    images = [images for images, _ in present]
    return Decoded(
        images=np.ascontiguousarray(images[0] if len(images) == 1 else np.concatenate(images)),
        labels=np.concatenate([labels for _, labels in present]).astype(np.int64),
        classes=classes,
        sizes=(train, val, test),
    )


def check_labels(labels: Mapping[str, np.ndarray], classes: tuple[str, ...], origin: str) -> None:
    """Checks the class names, and that the labels (N,) of each part match them.

    Raises:
        DataError: they do not; the message begins with ``origin``.
    """
    if len(classes) < 2:
        raise DataError(
            f"{origin}: found {len(classes)} class, expected at least 2; add images of another"
        )
    duplicates = [name for name, count in Counter(classes).items() if count > 1]
    if duplicates:
        raise DataError(
            f"{origin}: found two classes named {duplicates[0]!r}, expected distinct names; rename"
            " one"
        )
    for name in classes:
        if not is_text(name):
            printable = name.encode("utf-8", "replace").decode("utf-8", "replace")
            raise DataError(
                f"{origin}: found a class named {shown(printable)}, expected a name in UTF-8;"
                " rename it"
            )
    for name, values in labels.items():
        if not len(values):
            raise DataError(f"{origin}: found no {name} images, expected at least 1; add some")
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= len(classes):
            raise DataError(
                f"{origin}: found the label {low if low < 0 else high} in {name}, expected 0 to"
                f" {len(classes) - 1} for {len(classes)} classes; renumber the labels from 0"
            )
    missing = np.flatnonzero(np.bincount(labels["train"], minlength=len(classes)) == 0)
    if len(missing):
        raise DataError(
            f"{origin}: class {classes[missing[0]]!r} (label {missing[0]}) has no training image,"
            " expected at least 1 of every class; add some, or renumber the labels without gaps"
        )


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def npz(path: Path) -> Source:
    """Returns the source of an ``.npz`` file with ``x_train``, ``y_train`` and other parts."""
    signature = sign("npz", *stat(path))
    return Source(name=path.stem, signature=signature, decode=lambda: _decode_npz(path))


def _decode_npz(path: Path) -> Decoded:
    wanted = [f"{axis}_{part}" for part in PARTS for axis in "xy"] + ["classes"]
    arrays = read_npz(path, choose=lambda names: [name for name in names if name in wanted])
    for name in ("x_train", "y_train"):
        if name not in arrays:
            raise DataError(
                f"{path}: found {', '.join(arrays) or 'no arrays'}, expected x_train and y_train;"
                " save it with numpy.savez(path, x_train=images, y_train=labels)"
            )
    present = [part for part in PARTS if f"x_{part}" in arrays or f"y_{part}" in arrays]
    parts = {part: _part(arrays, part, path) for part in present}
    labels = parts["train"][1]
    if "classes" in arrays:
        names = arrays["classes"]
        if names.dtype.kind not in "US" or names.ndim != 1:
            raise DataError(
                f"{path}: classes has type {names.dtype} and shape {_size(names.shape)}, expected a"
                " list of strings; save classes=numpy.array(['first', 'second'])"
            )
        classes = _class_names(names, path)
    else:  # limited by the number of labels: a stray large one must not name a million classes
        classes = tuple(map(str, range(min(int(labels.max()), len(labels)) + 1)))
    return joined(parts, classes=classes, origin=str(path))


def _class_names(names: np.ndarray, path: Path) -> tuple[str, ...]:
    try:
        # bytes that are not UTF-8 become characters that check_labels refuses
        return tuple(
            name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
            for name in names.tolist()
        )
    except (ValueError, SystemError) as exc:  # numbers that stand for no character
        raise DataError(
            f"{path}: classes cannot be read ({reason(exc)}), expected names in UTF-8; save them"
            " again"
        ) from exc


def read_npz(path: Path, *, choose: Callable[[list[str]], Iterable[str]]) -> dict[str, np.ndarray]:
    """Returns the arrays of an ``.npz`` file that ``choose`` selects from their names.

    Pickles are refused, and arrays larger than the file can hold, before memory is allocated.

    Raises:
        DataError: the file or a chosen array cannot be read.
    """
    try:
        with open_regular(path) as file:
            magic = file.read(2)
            if magic == np.lib.format.MAGIC_PREFIX[:2]:
                raise ValueError("it holds a single array")
            if magic != b"PK":
                raise ValueError("it is not an archive of arrays")
            with zipfile.ZipFile(file) as archive:
                members = {
                    member.filename.removesuffix(".npy"): member
                    for member in archive.infolist()
                    if member.filename.endswith(".npy")
                }
                return {name: _read_member(archive, members[name]) for name in choose([*members])}
    except DataError:
        raise
    # zipfile and NumPy raise whatever the damage leads to: TokenError, RuntimeError, …
    except Exception as exc:
        raise DataError(
            f"{path}: cannot be read ({reason(exc)}), expected plain arrays saved by numpy.savez;"
            " save or copy the file again"
        ) from exc


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns one array, after comparing the sizes that its headers claim with each other.

    zipfile itself refuses a member that reaches beyond the end of the file.
    """
    name, holds = member.filename, member.file_size
    if member.compress_type not in _PACKED:
        raise ValueError(f"{name} is packed otherwise than by numpy.savez_compressed")
    most = member.compress_size * _PACKED[member.compress_type]
    if holds > most:
        raise ValueError(f"{name} claims {holds:,} bytes, expected at most {most:,}")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _READ_HEADER:
            raise ValueError(f"{name} has NumPy's format {version[0]}.{version[1]}, not 1.0 or 2.0")
        shape, _, dtype = _READ_HEADER[version](stream)
        claimed = stream.tell() + math.prod(shape) * dtype.itemsize
    if claimed != holds and not dtype.hasobject:
        raise ValueError(f"{name} claims {claimed:,} bytes and holds {holds:,}")
    with archive.open(member) as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _part(arrays: Mapping[str, np.ndarray], part: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    for axis, other in ("xy", "yx"):
        if f"{axis}_{part}" not in arrays:
            raise DataError(
                f"{path}: found {other}_{part} without {axis}_{part}, expected both;"
                " add the missing one or omit both"
            )
    images = _channels_last(arrays[f"x_{part}"], f"{path}: x_{part}")
    labels = _labels(arrays[f"y_{part}"], f"{path}: y_{part}")
    if len(images) != len(labels) or not len(images):
        raise DataError(
            f"{path}: found {len(images)} images in x_{part} and {len(labels)} labels in y_{part},"
            " expected equal numbers, at least 1; make them match"
        )
    return images, labels


def _channels_last(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype != np.uint8:
        raise DataError(
            f"{what} is {images.dtype}, expected uint8 from 0 to 255; convert it with"
            " x.astype('uint8'), or (x * 255).round().astype('uint8') if it runs from 0 to 1"
        )
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in _CHANNELS:
        return images
    if images.ndim == 4 and images.shape[1] in _CHANNELS:
        return images.transpose(0, 2, 3, 1)  # (N, H, W, C)
    raise DataError(
        f"{what} has the shape {_size(images.shape)}, expected N×H×W, N×H×W×C or N×C×H×W"
        " with 1, 3 or 4 channels; reshape it"
    )


def _labels(labels: np.ndarray, what: str) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{what} is {labels.dtype}, expected integers from 0; convert it with"
            " y.astype('int64'), names with numpy.unique(y, return_inverse=True)"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{what} has the shape {_size(labels.shape)}, expected one label per image (N);"
            " convert one-hot labels with y.argmax(axis=1)"
        )
    return labels.astype(np.int64)
