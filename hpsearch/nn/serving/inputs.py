"""Images to be classified: files, folders and arrays, made to fit what a model takes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpsearch.core.plural import plural
from hpsearch.errors import DataError
from hpsearch.nn.data.arrays import opened_npz
from hpsearch.nn.data.image_folder import SUFFIXES, fit, read_image
from hpsearch.nn.runtime.cpu import usable_cpus

_log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

_AT_ONCE = 4096  # files that are read before they are classified
_SLICE = 64  # files that a thread takes at a time
_KEYS = ("x", "x_test", "images", "x_val", "x_train")  # of an .npz: the first that is there
_NAMED = 5  # files of other kinds that are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some images by name: ``pixels`` is (N, H, W, C) uint8, as the model takes them."""

    names: tuple[str, ...]
    pixels: Pixels


def gather(
    paths: Sequence[str | Path],
    *,
    size: tuple[int, int],
    channels: int,
    refuse: Callable[[str], None] = _log.warning,
) -> Iterator[Batch]:
    """Yields the images of the files, folders (with all below them) and ``.npz`` files, in order.

    What is no image, or an ``.npz`` file that does not fit, is told, one line each, and left out;
    of a folder only files that are images by their names are tried.

    Args:
        paths: where the images are.
        size: height and width that a model takes, in pixels.
        channels: likewise.
        refuse: called with a message for each file that cannot be read; by default it is logged.
    """
    waiting: list[str] = []
    for path in map(Path, paths):
        if path.suffix.lower() == ".npz" and os.path.isfile(path):
            yield from _of_files(waiting, size, channels, refuse)
            waiting = []
            try:
                batch = _of_npz(path, size=size, channels=channels)
            except DataError as exc:
                refuse(_legible(str(exc)))
            else:
                yield batch
        elif os.path.isdir(path):
            waiting += _below(path)
        elif os.path.exists(path):  # false too where a name is too long to be asked for
            waiting.append(str(path))
        else:
            named = str(path)[:200]
            refuse(f"{named}: found no such file, expected an image, a folder or an .npz file")
    yield from _of_files(waiting, size, channels, refuse)


def as_images(
    images: npt.NDArray[np.uint8], *, size: tuple[int, int], channels: int, what: str
) -> Pixels:
    """Returns an array of images as (N, H, W, C) uint8, scaled where they have another size.

    Args:
        images: N×H×W, N×H×W×C or N×C×H×W.
        size: height and width to return, in pixels.
        channels: how many there must be.
        what: names the images in messages.

    Raises:
        DataError: the type or the number of channels is another.
    """
    if images.dtype != np.uint8:
        raise DataError(
            f"{what}: found {images.dtype}, expected uint8 from 0 to 255; convert it with"
            " x.astype('uint8'), or (x * 255).round().astype('uint8') if it runs from 0 to 1"
        )
    if images.ndim == 3 and channels == 1:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[3] != channels and images.shape[1] == channels:
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] != channels or 0 in images.shape[1:]:
        shape = "×".join(map(str, images.shape)) or "of a single number"
        raise DataError(
            f"{what}: found the shape {shape}, expected {_shapes(channels)}, as the model was"
            f" trained on images of {plural(channels, 'channel')}; convert them"
        )
    if images.shape[1:3] != size:
        return _fitted(images, size=size, channels=channels)
    return np.ascontiguousarray(images)


def _shapes(channels: int) -> str:
    shapes = f"N×H×W×{channels} or N×{channels}×H×W"
    return f"N×H×W, {shapes}" if channels == 1 else shapes


def _fitted(images: Pixels, *, size: tuple[int, int], channels: int) -> Pixels:
    from PIL import Image

    fitted = np.empty((len(images), *size, channels), np.uint8)
    for place, image in enumerate(images):
        plain = np.ascontiguousarray(image[..., 0] if channels == 1 else image)
        fitted[place] = fit(Image.fromarray(plain), size=size, channels=channels)
    return fitted


def read_all(paths: Sequence[str | Path], *, size: tuple[int, int], channels: int) -> Pixels:
    """Returns the images in the files, (N, H, W, C) uint8.

    Raises:
        DataError: one of them is no image; the message names it.
    """

    def complain(line: str) -> None:
        raise DataError(line)

    batches = list(_of_files([str(path) for path in paths], size, channels, complain))
    if not batches:
        return np.empty((0, *size, channels), np.uint8)
    return np.concatenate([batch.pixels for batch in batches])


def _of_files(
    paths: Sequence[str], size: tuple[int, int], channels: int, refuse: Callable[[str], None]
) -> Iterator[Batch]:
    def read(some: Sequence[str]) -> list[Pixels | DataError]:
        return [_read(path, size=size, channels=channels) for path in some]

    with ThreadPoolExecutor(min(8, usable_cpus())) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            chunk = paths[start : start + _AT_ONCE]
            slices = [chunk[i : i + _SLICE] for i in range(0, len(chunk), _SLICE)]
            read_ones = [each for some in pool.map(read, slices) for each in some]
            for each in read_ones:
                if isinstance(each, DataError):
                    refuse(_legible(str(each)))
            good = [(p, i) for p, i in zip(chunk, read_ones, strict=True) if not _is_bad(i)]
            if good:
                names, images = zip(*good, strict=True)
                yield Batch(names=tuple(map(_legible, names)), pixels=np.stack(images))


def _legible(path: str) -> str:
    """The path as it can be printed: a name that is not UTF-8 comes with question marks."""
    return os.fsencode(path).decode("utf-8", "replace")


def _is_bad(read: Pixels | DataError) -> bool:
    return isinstance(read, DataError)


def _read(path: str, *, size: tuple[int, int], channels: int) -> Pixels | DataError:
    try:
        return read_image(path, size=size, channels=channels)
    except DataError as exc:
        return exc


def _below(folder: Path) -> list[str]:
    """The images below a folder by their names, sorted; tells of the files of other kinds."""
    found: list[str] = []
    others: list[str] = []
    for here, folders, files in os.walk(folder, onerror=lambda exc: _log.info(_closed(exc))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            (found if name.lower().endswith(SUFFIXES) else others).append(os.path.join(here, name))
    if others:
        others = [_legible(name) for name in others]
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        _log.info("left out, as no image by its name: %s%s", ", ".join(others[:_NAMED]), more)
    if not found:
        _log.info(
            "%s: found no image in it, expected files such as %s", folder, ", ".join(SUFFIXES[:3])
        )
    return found


def _closed(exc: OSError) -> str:
    return f"{exc.filename}: cannot be read ({exc.strerror})"


def _of_npz(path: Path, *, size: tuple[int, int], channels: int) -> Batch:
    with opened_npz(path) as archive:
        names = archive.files
        key = next((key for key in _KEYS if key in names), names[0] if len(names) == 1 else "")
        array = archive[key] if key else None
    if array is None:
        raise DataError(
            f"{path}: found {', '.join(names) or 'no arrays'}, expected one of {', '.join(_KEYS)},"
            " or a single array; save it with numpy.savez(path, x=images)"
        )
    pixels = as_images(array, size=size, channels=channels, what=f"{path}: {key}")
    if not len(pixels):
        raise DataError(f"{path}: {key}: found no images, expected at least 1; save some")
    name = _legible(str(path))
    return Batch(names=tuple(f"{name}[{i}]" for i in range(len(pixels))), pixels=pixels)
