"""Images to classify: files, folders and arrays, converted to a model's size and channels."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpsearch.errors import DataError, plural
from hpsearch.nn.data.arrays import read_npz
from hpsearch.nn.data.image_folder import SUFFIXES, UnfitError, fit, in_threads, read_image

_log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

_AT_ONCE = 4096  # files that are read before they are classified
_KEYS = ("x", "x_test", "images", "x_val", "x_train")  # arrays of an .npz file, by preference
_NAMED = 5  # skipped files that a message names


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some images and their names: ``pixels`` is (N, H, W, C) uint8, of the model's size."""

    names: tuple[str, ...]
    pixels: Pixels


def gather(
    paths: Sequence[str | Path],
    *,
    size: tuple[int, int],
    channels: int,
    refuse: Callable[[str], None] = _log.warning,
) -> Iterator[Batch]:
    """Yields the images of the files, folders (with subfolders) and ``.npz`` files, in order.

    Files that are no image, and ``.npz`` files that do not fit, are reported one line each and
    skipped; in a folder only files with the suffix of an image are read.

    ``size`` is the model's height and width in pixels, ``channels`` its channels. ``refuse`` is
    called with a message for each file that cannot be read; by default it is logged.
    """
    waiting: list[str] = []
    for path in map(Path, paths):
        if path.suffix.lower() == ".npz" and os.path.isfile(path):
            yield from _of_files(waiting, size, channels, refuse)  # keeps the order of the paths
            waiting = []
            try:
                batch = _of_npz(path, size=size, channels=channels)
            except DataError as exc:
                refuse(_printable(str(exc)))
            else:
                yield batch
        elif os.path.isdir(path):
            waiting += _list_folder(path)
        elif os.path.exists(path):  # unlike Path.exists, False for names that are too long
            waiting.append(str(path))
        else:
            refuse(
                f"{str(path)[:200]}: found no such file, expected an image, a folder or an .npz"
                " file"
            )
    yield from _of_files(waiting, size, channels, refuse)


def as_images(
    images: npt.NDArray[np.uint8], *, size: tuple[int, int], channels: int, what: str
) -> Pixels:
    """Returns N×H×W, N×H×W×C or N×C×H×W images as (N, H, W, C) uint8, scaled to ``size``.

    ``size`` is height and width in pixels, ``channels`` the number that the images must have, and
    ``what`` names them in messages.

    Raises:
        DataError: the type or the number of channels is wrong.
    """
    if images.dtype != np.uint8:
        raise DataError(
            f"{what}: found {images.dtype}, expected uint8 from 0 to 255; convert it with"
            " x.astype('uint8'), or (x * 255).round().astype('uint8') if it runs from 0 to 1"
        )
    if images.ndim == 3 and channels == 1:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[3] != channels and images.shape[1] == channels:
        images = images.transpose(0, 2, 3, 1)  # (N, H, W, C)
    if images.ndim != 4 or images.shape[3] != channels or 0 in images.shape[1:]:
        shape = "×".join(map(str, images.shape)) or "of a single number"
        gray = "N×H×W, " if channels == 1 else ""
        raise DataError(
            f"{what}: found the shape {shape}, expected {gray}N×H×W×{channels} or"
            f" N×{channels}×H×W, as the model was trained on images with"
            f" {plural(channels, 'channel')}; convert them"
        )
    if images.shape[1:3] == size:
        return np.ascontiguousarray(images)
    from PIL import Image

    fitted = np.empty((len(images), *size, channels), np.uint8)
    for index, image in enumerate(images):
        plain = np.ascontiguousarray(image[..., 0] if channels == 1 else image)
        fitted[index] = fit(Image.fromarray(plain), size=size, channels=channels)
    return fitted


def read_all(paths: Sequence[str | Path], *, size: tuple[int, int], channels: int) -> Pixels:
    """Returns the images in the files, (N, H, W, C) uint8.

    Raises:
        DataError: a file is not an image; the message names it.
    """

    def refuse(line: str) -> None:
        raise DataError(line)

    batches = list(_of_files([str(path) for path in paths], size, channels, refuse))
    if not batches:
        return np.empty((0, *size, channels), np.uint8)
    return np.concatenate([batch.pixels for batch in batches])


def _of_files(
    paths: Sequence[str], size: tuple[int, int], channels: int, refuse: Callable[[str], None]
) -> Iterator[Batch]:
    def read(path: str) -> Pixels:
        return read_image(path, size=size, channels=channels)

    for start in range(0, len(paths), _AT_ONCE):
        chunk = paths[start : start + _AT_ONCE]
        names, images = [], []
        for path, image in zip(chunk, in_threads(read, chunk), strict=True):
            if isinstance(image, UnfitError):
                refuse(_printable(str(image)))
            else:
                names.append(_printable(path))
                images.append(image)
        if images:
            yield Batch(names=tuple(names), pixels=np.stack(images))


def _printable(path: str) -> str:
    """Returns a path that can be printed: bytes that are not UTF-8 become question marks."""
    return os.fsencode(path).decode("utf-8", "replace")


def _list_folder(folder: Path) -> list[str]:
    """Returns the images in the folder and its subfolders, sorted; logs the names of other files.

    A file is an image if its name ends as one; hidden files and folders are left out.
    """

    def log_error(exc: OSError) -> None:
        _log.info("%s: cannot be read (%s)", exc.filename, exc.strerror)

    images: list[str] = []
    others: list[str] = []
    for here, folders, files in os.walk(folder, onerror=log_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            (images if name.lower().endswith(SUFFIXES) else others).append(os.path.join(here, name))
    if others:
        named = ", ".join(map(_printable, others[:_NAMED]))
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        _log.info("skipped, not an image by its name: %s%s", named, more)
    if not images:
        _log.info(
            "%s: found no image in it, expected files such as %s", folder, ", ".join(SUFFIXES[:3])
        )
    return images


def _of_npz(path: Path, *, size: tuple[int, int], channels: int) -> Batch:
    def choose(names: list[str]) -> list[str]:
        key = next((key for key in _KEYS if key in names), names[0] if len(names) == 1 else None)
        if key is not None:
            return [key]
        found = ", ".join(names[:_NAMED]) or "no arrays"
        raise DataError(
            f"{path}: found {found}, expected one of {', '.join(_KEYS)},"
            " or a single array; save it with numpy.savez(path, x=images)"
        )

    ((key, array),) = read_npz(path, choose=choose).items()
    pixels = as_images(array, size=size, channels=channels, what=f"{path}: {key}")
    if not len(pixels):
        raise DataError(f"{path}: {key}: found no images, expected at least 1; save some")
    name = _printable(str(path))
    return Batch(names=tuple(f"{name}[{i}]" for i in range(len(pixels))), pixels=pixels)
