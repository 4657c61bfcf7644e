"""A folder of class folders of images: listed, decoded in threads, brought to one size."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hpsearch.errors import DataError, plural
from hpsearch.nn.data.arrays import (
    PARTS,
    SMALLEST,
    Decoded,
    Source,
    check_labels,
    joined,
    reason,
    sign,
)
from hpsearch.nn.runtime.cpu import usable_cpus
from hpsearch.util.atomic import check_regular, open_regular

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)

LARGEST_DEFAULT = 64  # pixels a side, if no image size is given
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
# Pillow's names, whatever the suffix says. Its other decoders stay closed: for EPS it starts
# Ghostscript. PPM includes PGM.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
_GRAY = ("L", "1", "I", "I;16", "I;16B", "I;16L")
_SLICE = 32  # images per task of a thread
_NAMED = 10  # unfit images that a message names

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: str
    part: str
    label: int
    size: int  # bytes
    changed: int  # nanoseconds


class UnfitError(DataError):
    """An image that cannot be used: the problem, what was expected and what to do."""

    def __init__(self, path: str | Path, problem: str, expected: str) -> None:
        super().__init__(f"{path}: {problem}, {expected}")
        self.path, self.problem = str(path), problem


def find(root: Path, *, image_size: int | None) -> Source:
    """Returns the source of root/class/image, or of root/train/class/image with val and test.

    Images are scaled and cropped to squares of ``image_size`` pixels; None: the median shorter
    side, at most 64.

    Raises:
        DataError: there are no class folders, or one is empty or missing in training.
    """
    root = root.absolute()
    files, classes = _listing(root)
    stats = [(os.path.relpath(f.path, root), f.size, f.changed) for f in files]
    return Source(
        name=root.resolve().name,
        signature=sign("folder", str(root), image_size, stats),
        decode=lambda: _decode(files, classes, root=root, image_size=image_size),
    )


def read_labels(root: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns the labels (N,) int64 of each part and the names of the classes; decodes nothing.

    Raises:
        DataError: as :func:`find`, or a class has a name that is not UTF-8.
    """
    files, classes = _listing(root.absolute())
    labels: dict[str, list[int]] = {}
    for file in files:
        labels.setdefault(file.part, []).append(file.label)
    parts = {part: np.array(some, np.int64) for part, some in labels.items()}
    check_labels(parts, classes, str(root))
    return parts, classes


def _listing(root: Path) -> tuple[list[_File], tuple[str, ...]]:
    """Returns the images, part by part, and the names of the classes."""
    try:
        is_split = bool(_folders(root / "train"))
        parts = {"train": root / "train" if is_split else root}
        parts |= {part: root / part for part in PARTS[1:] if is_split and (root / part).is_dir()}
        classes = _folders(parts["train"])
        if len(classes) < 2:
            raise DataError(
                f"{parts['train']}: found {plural(len(classes), 'class folder')},"
                " expected at least 2 that hold images; make a folder for each class"
            )
        return [f for part, top in parts.items() for f in _part(top, part, classes)], classes
    except OSError as exc:
        raise DataError(
            f"{exc.filename or root}: cannot be read ({exc.strerror}), expected class folders with"
            " images; remove it or check its permissions"
        ) from exc


def _folders(top: Path) -> tuple[str, ...]:
    if not top.is_dir():
        return ()
    names = (entry.name for entry in os.scandir(top) if entry.is_dir())
    return tuple(sorted(name for name in names if not name.startswith(".")))


def _part(top: Path, part: str, classes: tuple[str, ...]) -> list[_File]:
    unknown = sorted(set(_folders(top)) - set(classes))
    if unknown:
        raise DataError(
            f"{top / unknown[0]}: found a class that is not in training, expected one of"
            f" {', '.join(classes)}; rename or remove it"
        )
    files: list[_File] = []
    for label, name in enumerate(classes):
        entries = list(_images(top / name)) if (top / name).is_dir() else []
        if not entries and part == "train":
            raise DataError(
                f"{top / name}: found no image in this class folder, expected files such as"
                f" {', '.join(SUFFIXES[:3])}; add images or remove the folder"
            )
        for entry in entries:
            status = entry.stat()
            check_regular(entry.path, status)
            size, changed = status.st_size, status.st_mtime_ns
            files.append(_File(path=entry.path, part=part, label=label, size=size, changed=changed))
    if not files:
        raise DataError(f"{top}: found no image, expected class folders; fill or remove it")
    return files


def _images(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Yields the images in the folder and its subfolders, sorted by name, without hidden ones.

    Only the names count: pipes and links to missing files are yielded too, to be refused.
    """
    waiting = _visible(folder)  # a stack: folders may lie deeper in each other than functions
    while waiting:
        entry = waiting.pop()
        if entry.is_dir():
            waiting += _visible(entry.path)
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry


def _visible(folder: Path | str) -> list[os.DirEntry[str]]:
    """Returns what lies in the folder and is not hidden, the last name first."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: entry.name, reverse=True)


def _decode(
    files: list[_File], classes: tuple[str, ...], *, root: Path, image_size: int | None
) -> Decoded:
    _log.info(
        "decoding %s images of %s (once; later starts use the cache)",
        format(len(files), ","),
        root.name,
    )
    # First all headers: the number of channels and the size must be known before decoding.
    headers = in_threads(lambda file: _header(file.path), files)
    good = [header for header in headers if not isinstance(header, UnfitError)]
    if not good:
        raise _refusal(headers, root)
    channels = 1 if all(mode in _GRAY for mode, _ in good) else 3
    median = int(np.median([side for _, side in good]))
    size = image_size or min(median, LARGEST_DEFAULT)
    images = np.empty((len(files), size, size, channels), np.uint8)  # (N, H, W, C)

    def decode(index: int) -> None:
        if not isinstance(headers[index], UnfitError):
            images[index] = read_image(files[index].path, size=size, channels=channels)

    results = [*headers, *in_threads(decode, range(len(files)))]
    if any(isinstance(result, UnfitError) for result in results):
        raise _refusal(results, root)
    labels = np.array([file.label for file in files], np.int64)  # (N,)
    counts = Counter(file.part for file in files)
    parts, start = {}, 0
    for part in PARTS:  # the files are listed part by part
        if counts[part]:
            end = start + counts[part]
            parts[part] = images[start:end], labels[start:end]
            start = end
    return joined(parts, classes=classes, origin=str(root))


def _refusal(results: Sequence[object], root: Path) -> DataError:
    """Returns one error that names all unfit images, or the first ones of many."""
    unfit = sorted((r for r in results if isinstance(r, UnfitError)), key=lambda each: each.path)
    if len(unfit) == 1:
        return unfit[0]
    lines = [f"{os.path.relpath(each.path, root)}: {each.problem}" for each in unfit[:_NAMED]]
    more = f"; and {len(unfit) - _NAMED} more" if len(unfit) > _NAMED else ""
    return DataError(
        f"{root}: found {len(unfit):,} images that cannot be used, expected none; replace or remove"
        f" them: {'; '.join(lines)}{more}"
    )


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R | UnfitError]:
    """Returns the result for each item; an unfit image's error is returned, not raised."""

    def attempt(item: T) -> R | UnfitError:
        try:
            return work(item)
        except UnfitError as exc:
            return exc

    # In slices: a task per image would cost as much as decoding a small one.
    slices = [items[i : i + _SLICE] for i in range(0, len(items), _SLICE)]
    with ThreadPoolExecutor(min(8, usable_cpus())) as pool:
        done = pool.map(lambda some: [attempt(item) for item in some], slices)
        return [result for results in done for result in results]


def _header(path: str) -> tuple[str, int]:
    """Returns an image's mode and shorter side in pixels."""
    with _opened(path) as image:
        mode, side = image.mode, min(image.size)
    if side < SMALLEST:
        raise UnfitError(
            path,
            f"found an image whose shorter side is {side} pixels",
            f"expected at least {SMALLEST}×{SMALLEST}; replace or remove it",
        )
    return mode, side


def read_image(path: str | Path, *, size: int | tuple[int, int], channels: int) -> np.ndarray:
    """Returns the image as (height, width, channels) uint8: upright, scaled, its centre cropped.

    ``size`` is the side of a square, or height and width, in pixels; ``channels`` is 1 (gray),
    3 (RGB) or 4 (RGBA).

    Raises:
        DataError: the image is damaged; the message names the file.
    """
    from PIL import Image, ImageOps

    height, width = (size, size) if isinstance(size, int) else size
    with _opened(path) as image:
        # Decodes a JPEG at a reduced size, which is faster.
        image.draft("L" if channels == 1 else "RGB", (2 * width, 2 * height))
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit gray, which Pillow would clip to 8 bits
            wide = np.asarray(upright).astype(np.int64)
            upright = Image.fromarray(np.clip(wide // 257, 0, 255).astype(np.uint8))
        return fit(upright, size=(height, width), channels=channels)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Yields the image in a file; any exception inside the context becomes an UnfitError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as exc:
        known = ", ".join("PGM, PPM" if name == "PPM" else name for name in FORMATS)
        raise _damaged(path, ValueError(f"it is none of {known}")) from exc
    # Decoders raise whatever the damage leads to: RuntimeError, OverflowError, MemoryError, …
    except Exception as exc:
        raise _damaged(path, exc) from exc


def fit(image: Image.Image, *, size: tuple[int, int], channels: int) -> np.ndarray:
    """Returns an eight-bit image as (height, width, channels) uint8, scaled and cropped."""
    from PIL import Image, ImageOps

    height, width = size
    plain = image.convert(_MODES[channels])
    fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(fitted, np.uint8).reshape(height, width, channels)


def _damaged(path: str | Path, exc: BaseException) -> UnfitError:
    if isinstance(exc, FileNotFoundError):
        return UnfitError(path, "no such file", "expected an image; check the path")
    why = exc.strerror if isinstance(exc, OSError) and exc.strerror else reason(exc)
    return UnfitError(
        path, f"cannot be decoded ({why})", "expected an image; replace or remove the file"
    )
