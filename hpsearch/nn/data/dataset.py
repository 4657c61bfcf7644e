"""Images with labels and a fixed split, from any source: see :func:`load`."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.core.spec import DatasetSummary, DataSpec
from hpsearch.errors import DataError, mask_text, nearest, plural
from hpsearch.nn.data import arrays, builtin, cache, image_folder

DATASETS = builtin.NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The indices of the training, validation and test images: sorted int64, disjoint."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """Images, their labels and their split.

    ``images`` (N, H, W, C) uint8 and ``labels`` (N,) int64 are read-only, and memory-mapped if the
    cache can be written. ``mean`` and ``std`` are per channel, of the training images scaled to
    [0, 1]; ``std`` is at least 1/255. ``content`` is the hash of the images, labels, class names
    and part sizes; it does not depend on paths.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    split: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one image as input of a model: (C, H, W)."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Identifies images and split: equal in comparable studies. JSON can hold it."""
        parts = {name: getattr(self.split, name) for name in arrays.PARTS}
        digest = hashlib.sha256()
        for part in parts.values():
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.astype("<i8").tobytes())
        return {
            "content": self.content,
            "shape": list(self.input_shape),
            "classes": list(self.classes),
            **{name: len(part) for name, part in parts.items()},
            "split": digest.hexdigest()[:16],
        }


def default_name(dataset: str) -> str:
    """Returns a short name for the data: the data set's, folder's or file's name.

    >>> default_name("emnist-balanced"), default_name("/data/birds"), default_name("my/set.npz")
    ('emnist-balanced', 'birds', 'set')
    """
    if dataset in DATASETS:
        return dataset
    path = Path(os.path.expanduser(dataset))
    return path.stem if path.suffix.lower() == ".npz" else path.absolute().resolve().name


def check(spec: DataSpec, *, data_dir: Path | None = None) -> None:
    """Checks the name or path without decoding, downloading or writing anything.

    Raises:
        DataError: the name is unknown, the path does not exist or is of another kind, or an image
            size is given for data of fixed size.
    """
    dataset, path = spec.dataset, Path(os.path.expanduser(spec.dataset))
    if dataset in DATASETS:
        _refuse_image_size(spec, f"the data set {dataset!r}")
        if data_dir is not None and data_dir.exists() and not data_dir.is_dir():
            raise DataError(
                f"{data_dir}: found a file, expected the directory for data; name another"
            )
        return
    try:
        exists, is_dir, is_file = path.exists(), path.is_dir(), path.is_file()
    except OSError as exc:
        raise DataError(
            f"{dataset[:200]}: cannot be examined ({exc.strerror}), expected a readable folder or"
            " file; check the path and its permissions"
        ) from exc
    if is_dir:
        return
    if is_file and path.suffix.lower() == ".npz":
        _refuse_image_size(spec, f"the .npz file {dataset!r}")
    elif exists:
        kind = "a file of another kind" if is_file else "not a regular file"
        raise DataError(
            f"{dataset}: found {kind}, expected an .npz file, a folder of class"
            " folders, or a known name; pass one of them"
        )
    elif path.suffix or len(path.parts) > 1 or dataset.startswith((".", "~")):
        raise DataError(
            f"{mask_text(dataset)}: no such file or folder (looked for"
            f" {mask_text(str(path.absolute()))}), expected an .npz file, a folder of class"
            f" folders, or a known name; {nearest(dataset, DATASETS)}"
        )
    else:
        raise DataError(
            f"unknown dataset {dataset!r}, nor is there a folder of that name here, expected a"
            f" known name or the path of a folder or .npz file; {nearest(dataset, DATASETS)}"
        )


def known_size(spec: DataSpec) -> tuple[int, int] | None:
    """Returns the images' height and width in pixels; None if only loading them can show it.

    >>> known_size(DataSpec(dataset="cifar10")), known_size(DataSpec(dataset="my.npz"))
    ((32, 32), None)
    """
    if spec.dataset in DATASETS:
        return builtin.size(spec.dataset)
    return None if spec.image_size is None else (spec.image_size, spec.image_size)


def summarise(spec: DataSpec, *, seed: int) -> DatasetSummary | None:
    """Returns how many images a folder holds and how they are split; None for other kinds of data.

    Decodes nothing. Pass the same ``seed`` as to :func:`load`.

    Raises:
        DataError: there are no class folders, or one holds no or too few images.
    """
    path = Path(os.path.expanduser(spec.dataset))
    if spec.dataset in DATASETS or not path.is_dir():
        return None
    parts, classes = image_folder.read_labels(path)
    labels = np.concatenate([parts[part] for part in arrays.PARTS if part in parts])
    train, val, test = (len(parts.get(part, ())) for part in arrays.PARTS)
    split = cut(labels, sizes=(train, val, test), classes=classes, spec=spec, seed=seed)
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return DatasetSummary(
        classes=dict(zip(classes, counts, strict=True)),
        train=len(split.train),
        val=len(split.val),
        test=len(split.test),
    )


def _refuse_image_size(spec: DataSpec, what: str) -> None:
    if spec.image_size is not None:
        raise DataError(
            f"image_size is {spec.image_size} for {what}, expected it for a folder of images only;"
            " omit it"
        )


def load(spec: DataSpec, *, data_dir: Path | None = None, seed: int = 0) -> ImageData:
    """Returns the images that ``spec`` names, split; from the cache if they were decoded before.

    Args:
        spec: names the images, and the fractions of them for validation and test.
        data_dir: holds named data sets, which are downloaded to it; ``data`` if None.
        seed: fixes the draw of parts that are cut; parts that the data brings are kept.

    Raises:
        DataError: the data is unknown, missing, damaged or unfit.
    """
    check(spec, data_dir=data_dir)
    path = Path(os.path.expanduser(spec.dataset))
    if spec.dataset in DATASETS:
        source = builtin.find(spec.dataset, data_dir=data_dir or Path("data"))
    elif path.is_dir():
        source = image_folder.find(path, image_size=spec.image_size)
    else:
        source = arrays.npz(path)
    stored = cache.fetch(source)
    split = cut(stored.labels, sizes=stored.sizes, classes=stored.classes, spec=spec, seed=seed)
    # each channel's mean and deviation over the training images, from the sums of each image
    _, height, width, _ = stored.images.shape
    total = stored.moments[split.train].sum(axis=0)  # (C, 2)
    mean, square = (total / (len(split.train) * height * width)).T
    std = np.sqrt(np.maximum(square - mean**2, 1.0))  # a constant channel must not divide by 0
    return ImageData(
        name=source.name,
        images=stored.images,
        labels=stored.labels,
        classes=stored.classes,
        split=split,
        mean=tuple((mean / 255).tolist()),
        std=tuple((std / 255).tolist()),
        content=stored.content,
    )


def cut(
    labels: np.ndarray,
    *,
    sizes: tuple[int, int, int],
    classes: tuple[str, ...],
    spec: DataSpec,
    seed: int,
) -> Split:
    """Returns the data's own parts; missing ones are cut from the training images by class.

    Of each class with n training images, ``round(n × fraction)`` and at least 1 go to each part
    that is cut. The test images are drawn first: they do not depend on the validation fraction.

    ``labels`` (N,) are those of training first, then validation, then test, with ``sizes`` in each
    part that the data brings. ``spec`` holds the fractions, and ``seed`` fixes the draw.

    Raises:
        DataError: a class has too few images.
    """
    train, val, test = sizes
    fractions = {"test": 0.0 if test else spec.test_fraction}
    fractions["val"] = 0.0 if val else spec.val_fraction
    order = np.random.default_rng(seed).permutation(train)
    by_class = order[np.argsort(labels[order], kind="stable")]  # stable: random inside a class
    last = np.cumsum(np.bincount(labels[:train], minlength=len(classes)))[:-1]
    groups = np.split(by_class, last)
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in arrays.PARTS}
    for name, group in zip(classes, groups, strict=True):
        counts = {
            part: max(1, int(len(group) * fraction + 0.5)) if fraction else 0
            for part, fraction in fractions.items()
        }
        if len(group) - sum(counts.values()) < 1:
            cuts = " and ".join(f"{count} for {part}" for part, count in counts.items() if count)
            raise DataError(
                f"class {name!r} has {plural(len(group), 'training image')}, of which {cuts} would"
                " be cut, expected at least 1 left for training; add images, remove the class or"
                " set smaller fractions"
            )
        ends = np.cumsum([counts["test"], counts["val"]])
        for part, piece in zip(("test", "val", "train"), np.split(group, ends), strict=True):
            pieces[part].append(piece)
    drawn = {part: np.sort(np.concatenate(some)) for part, some in pieces.items()}
    return Split(
        train=drawn["train"],
        val=np.arange(train, train + val) if val else drawn["val"],
        test=np.arange(train + val, sum(sizes)) if test else drawn["test"],
    )
