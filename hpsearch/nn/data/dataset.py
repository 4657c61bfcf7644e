"""Images with labels and a fixed split, whatever they come from: ``load`` is the way in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.core.plural import plural
from hpsearch.core.spec import DatasetSummary, DataSpec
from hpsearch.errors import DataError, nearest
from hpsearch.nn.data import arrays, builtin, cache, image_folder

DATASETS = builtin.NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which images are for training, validation and testing: sorted int64 indices, disjoint."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """Images, their labels and their split.

    ``images`` (N, H, W, C) uint8 and ``labels`` (N,) int64 are read-only and, where the cache can
    be written, memory-mapped. ``mean`` and ``std`` are per channel, of the training images scaled
    to [0, 1]; ``std`` is at least 1/255. ``content`` is the hash of the images, labels, class
    names and given parts: the same wherever the files lie.
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
        """The shape of an image as a network takes it: (C, H, W)."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What two studies must share to be comparable, as JSON can hold it."""
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
    """Returns a short name for the data: its own, or that of the folder or file.

    >>> default_name("emnist-balanced"), default_name("/data/birds"), default_name("my/set.npz")
    ('emnist-balanced', 'birds', 'set')
    """
    if dataset in DATASETS:
        return dataset
    path = Path(dataset).expanduser()
    return path.stem if path.suffix.lower() == ".npz" else path.absolute().resolve().name


def check(spec: DataSpec, *, data_dir: Path | None = None) -> None:
    """Checks what can be told at once: no image is decoded, nothing downloaded or written.

    Raises:
        DataError: the name is unknown, the path leads nowhere or to something else, or the image
            size is given for data that has its own.
    """
    dataset, path = spec.dataset, Path(spec.dataset).expanduser()
    if dataset in DATASETS:
        _refuse_image_size(spec, f"the data set {dataset!r}")
        if data_dir is not None and data_dir.exists() and not data_dir.is_dir():
            raise DataError(
                f"{data_dir}: found a file, expected the directory for data; give another"
            )
        return
    try:
        there, is_dir, is_file = path.exists(), path.is_dir(), path.is_file()
    except OSError as exc:
        raise DataError(
            f"{dataset[:200]}: cannot be looked at ({exc.strerror}), expected a folder or file that"
            " can be read; check the path and its permissions"
        ) from exc
    if is_dir:
        return
    if is_file and path.suffix.lower() == ".npz":
        _refuse_image_size(spec, f"the .npz file {dataset!r}")
    elif there:
        raise DataError(
            f"{dataset}: found a file of another kind, expected an .npz file, a folder of class"
            " folders, or a known name; give one of them"
        )
    elif path.suffix or len(path.parts) > 1 or dataset.startswith((".", "~")):
        raise DataError(
            f"{dataset}: no such file or folder (looked for {path.absolute()}), expected an .npz"
            f" file, a folder of class folders, or a known name; {nearest(dataset, DATASETS)}"
        )
    else:
        raise DataError(
            f"unknown dataset {dataset!r}, expected a known name or the path of a folder or .npz"
            f" file; {nearest(dataset, DATASETS)}"
        )


def known_size(spec: DataSpec) -> tuple[int, int] | None:
    """Returns the images' height and width in pixels, where that is known without loading them.

    >>> known_size(DataSpec(dataset="cifar10")), known_size(DataSpec(dataset="my.npz"))
    ((32, 32), None)
    """
    if spec.dataset in DATASETS:
        return builtin.size(spec.dataset)
    return None if spec.image_size is None else (spec.image_size, spec.image_size)


def summarise(spec: DataSpec, *, seed: int) -> DatasetSummary | None:
    """Returns how many images a folder holds and how they are split; None for data of other kinds.

    Decodes nothing. ``seed`` is that of :func:`load`.

    Raises:
        DataError: there are no class folders, or one holds no or too few images.
    """
    path = Path(spec.dataset).expanduser()
    if spec.dataset in DATASETS or not path.is_dir():
        return None
    parts, classes = image_folder.listed(path)
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
            " leave it out"
        )


def load(
    spec: DataSpec,
    *,
    data_dir: Path | None = None,
    seed: int = 0,
) -> ImageData:
    """Returns the images that ``spec`` names, split; from the cache when they were decoded before.

    Args:
        spec: which images, and how much of them to validate and test on.
        data_dir: where named data sets lie or are downloaded to; ``data`` when None.
        seed: fixes the parts that have to be cut; given parts are kept.

    Raises:
        DataError: the data is unknown, missing, damaged or unfit.
    """
    check(spec, data_dir=data_dir)
    source = _find(spec, data_dir=data_dir or Path("data"))
    stored = cache.fetch(source)
    split = cut(stored.labels, sizes=stored.sizes, classes=stored.classes, spec=spec, seed=seed)
    mean, std = _mean_std(stored, split.train)
    return ImageData(
        name=source.name,
        images=stored.images,
        labels=stored.labels,
        classes=stored.classes,
        split=split,
        mean=mean,
        std=std,
        content=stored.content,
    )


def _find(spec: DataSpec, *, data_dir: Path) -> arrays.Source:
    if spec.dataset in DATASETS:
        return builtin.find(spec.dataset, data_dir=data_dir.expanduser())
    path = Path(spec.dataset).expanduser()
    if path.is_dir():
        return image_folder.find(path, image_size=spec.image_size)
    return arrays.npz(path)


def cut(
    labels: np.ndarray,
    *,
    sizes: tuple[int, int, int],
    classes: tuple[str, ...],
    spec: DataSpec,
    seed: int,
) -> Split:
    """Returns the given parts, with the missing ones cut from the training images class by class.

    Of each class with n training images, ``round(n × fraction)`` and at least 1 go to each part
    that is cut. The test images are drawn first, so the validation fraction does not move them.

    Args:
        labels: (N,), the given training images first, then validation, then test.
        sizes: how many images of each part are given.
        classes: names for the messages.
        spec: holds the fractions.
        seed: fixes the draw.

    Raises:
        DataError: a class has too few images.
    """
    train, val, test = sizes
    fractions = {"test": 0.0 if test else spec.test_fraction}
    fractions["val"] = 0.0 if val else spec.val_fraction
    groups = _shuffled_by_class(labels[:train], n_classes=len(classes), seed=seed)
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in arrays.PARTS}
    for name, group in zip(classes, groups, strict=True):
        counts = {part: _share(len(group), fraction) for part, fraction in fractions.items()}
        if len(group) - sum(counts.values()) < 1:
            raise _too_few(name, n=len(group), counts=counts)
        ends = np.cumsum([counts["test"], counts["val"]])
        for part, piece in zip(("test", "val", "train"), np.split(group, ends), strict=True):
            pieces[part].append(piece)
    given = {"val": np.arange(train, train + val), "test": np.arange(train + val, sum(sizes))}
    chosen = {part: np.sort(np.concatenate(some)) for part, some in pieces.items()}
    return Split(
        train=chosen["train"],
        val=given["val"] if val else chosen["val"],
        test=given["test"] if test else chosen["test"],
    )


def _share(n: int, fraction: float) -> int:
    return max(1, int(n * fraction + 0.5)) if fraction else 0


def _shuffled_by_class(labels: np.ndarray, *, n_classes: int, seed: int) -> list[np.ndarray]:
    """Returns the indices of each class's images, in random order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels, minlength=n_classes)
    return np.split(by_class, np.cumsum(counts)[:-1])


def _too_few(name: str, *, n: int, counts: dict[str, int]) -> DataError:
    cuts = " and ".join(f"{count} for {part}" for part, count in counts.items() if count)
    return DataError(
        f"class {name!r} has {plural(n, 'training image')}, of which {cuts} would be cut,"
        " expected at least 1 to be left to train on; add images, remove the class or give"
        " smaller fractions"
    )


def _mean_std(
    stored: cache.Stored, train: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns each channel's mean and deviation over the training images, scaled to [0, 1]."""
    _, height, width, _ = stored.images.shape
    total = stored.moments[train].sum(axis=0)  # (C, 2)
    mean, square = (total / (len(train) * height * width)).T
    std = np.sqrt(np.maximum(square - mean**2, 1.0))  # a constant channel must not divide by 0
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
