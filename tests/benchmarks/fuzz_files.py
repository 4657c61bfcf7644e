"""Fuzzes the files that hpsearch reads: damaged ones are refused in one line, or lose nothing.

    python tests/benchmarks/fuzz_files.py {study,model,images} [--n N] [--seed S]

Each case damages a file at random and reads it by the public API, in a child process: a case that
hangs, crashes the process or takes a gigabyte is a fault, as is any exception that is not an
``HpsearchError``, and an accepted file that should have been refused. Exits with 1 on a fault.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import queue
import random
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from hpsearch.config import SECTIONS, load_study_file
from hpsearch.core.dimensions import BUILT_IN, ChoiceDim
from hpsearch.core.space import cells, draw
from hpsearch.core.spec import ModelSpec, from_json, resolve, to_json
from hpsearch.errors import DataError, HpsearchError, is_text
from hpsearch.nn.data.arrays import read_npz
from hpsearch.nn.data.builtin import read_idx
from hpsearch.nn.data.image_folder import read_image
from tests.benchmarks.arguments import parser_of
from tests.benchmarks.environment import describe_environment, print_table

STUDIES = Path(__file__).parents[2] / "studies"
COUNTS = {"study": 5_000, "model": 1_000, "images": 2_000}  # images: of each format
HANG_SECONDS = 60.0  # without the end of a case
MOST_BYTES = 2**30  # of memory that one case may take
LONGEST = 4_000  # characters of a refusal

Case = Callable[[Path, random.Random], str]


class WronglyAcceptedError(Exception):
    """A file was read that should have been refused."""


def expect(ok: bool, what: str) -> None:
    """Raises WronglyAcceptedError unless ``ok``."""
    if not ok:
        raise WronglyAcceptedError(what)


def outcome_of(read: Callable[[], Any], accept: Callable[[Any], None]) -> str:
    """Returns how a file was answered; ``accept`` checks the content of an accepted one."""
    try:
        content = read()
    except HpsearchError as exc:
        line = str(exc)
        expect(len(line) <= LONGEST, f"a refusal of {len(line)} characters")
        return "refused"
    accept(content)
    return "accepted"


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with a few of them changed, moved, removed or added."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        # most formats keep sizes and offsets in the first bytes
        end = len(data) if rng.random() < 0.5 else min(len(data), 100)
        at = rng.randrange(end) if end else 0
        match rng.randrange(7):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + 4] = rng.choice(
                    (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80")
                )
            case 2:
                del data[at : at + rng.choice((1, 4, 50))]
            case 3:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 50)))
            case 4:
                data[at:at] = data[at : at + 50]
            case 5:
                data[at : at + 30] = bytes(30)
            case 6:
                data[at : at + 2] = rng.randbytes(2)
    return bytes(data)


def cut(content: bytes, rng: random.Random) -> bytes:
    """Returns the bytes without their end."""
    return content[: rng.randrange(len(content))]


def special_file(path: Path, rng: random.Random) -> None:
    """Puts a pipe, socket, folder, link or nothing in the place of a file."""
    path.unlink(missing_ok=True)
    match rng.randrange(6):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            path.symlink_to(path)
        case 4:
            with socket.socket(socket.AF_UNIX) as server:
                here = Path.cwd()
                os.chdir(path.parent)  # the name of a socket has 100 bytes
                server.bind(path.name)
                os.chdir(here)


NASTY_TOML = (
    *("nan", "inf", "-inf", "0", "-1", "1", "2", "3.5", "1e308", "-1e308", "1e-320", "true", "[]"),
    *("9" * 30, "9" * 400, "9" * 5000, "0x" + "f" * 5000, "-9223372036854775808", '""', '" "'),
    *('"\\u0000"', '"\\u202e"', '"\\n\\u001b[31m"', f'"{"x" * 5000}"', "[[]]", "[1, 1]", '["a"]'),
    *("{}", "{low = 0, high = 1}", "{low = nan, high = 1}", "{low = 1, high = 0}", "[1, nan]"),
    *("{low = 0, high = 1, step = 1e-320}", "{low = 0, high = 9000000000000000000}", '"1h"'),
    *("{low = 0.1, high = 1.0, log = true}", "{choices = [1, 2]}", "{low = 1, high = 3}"),
    *("1979-05-27", "07:32:00", '"a:b"', '"nets:build"', '"tpe"', '"grid"', '["n_blocks"]'),
    *("[" * 3000, "{a = " * 2000, "[" * 900 + "]" * 900, "{a = " * 100 + "1" + "}" * 100),
    *('"../x.npz"', '"digits"', '"adam"', '["sgd", "adam"]', "1_000", "0.05", "64"),
)
TEMPLATES = (
    *(path.read_bytes() for path in sorted(STUDIES.glob("*.toml"))),
    b'[data]\ndataset = "digits"\n[search]\nsampler = "grid"\n[space]\nn_blocks = [1, 2]\n',
    b'[model]\nfactory = "nets:build"\n[search]\nsampler = "grid"\n[space]\ndepth = [1, 2]\n',
)


def study_text(rng: random.Random) -> bytes:
    """Returns a damaged study file."""
    text = rng.choice(TEMPLATES)
    if rng.random() < 0.3:
        return damaged(text, rng) if rng.random() < 0.8 else cut(text, rng)
    if rng.random() < 0.5:
        return new_text(rng)
    lines = text.decode().splitlines()
    for _ in range(rng.choice((1, 1, 2, 5))):
        section = rng.choice([*SECTIONS, "space", "x"])
        fields = list(getattr(SECTIONS.get(section), "__dataclass_fields__", BUILT_IN))
        key, value = rng.choice([*fields, "depth", "ä", '"a.b"']), rng.choice(NASTY_TOML)
        at = rng.randrange(len(lines) + 1)
        match rng.randrange(5):
            case 0:
                lines[at:at] = [f"{key} = {value}"]
            case 1:  # before all tables, where only dotted keys reach one
                lines[0:0] = [f"{rng.choice(('name', key, f'{section}.{key}'))} = {value}"]
            case 2:
                lines[at:at] = [f"{section}.{'.'.join(['a'] * rng.choice((2, 40, 2000)))} = 1"]
            case _:  # another value for a key that is there
                settable = [i for i, line in enumerate(lines) if "=" in line and line[0] != "#"]
                if settable:
                    i = rng.choice(settable)
                    lines[i] = f"{lines[i].partition('=')[0]}= {value}"
    return "\n".join(lines).encode()


_LEGAL = """
data.dataset="digits" data.image_size=32 data.val_fraction=0.2 data.test_fraction=0.5 train.epochs=3
train.label_smoothing=0.1 train.shift=2 train.rotate=5 train.flip=true train.function="a:b"
model.widths="per-block" model.max_width=8 model.factory="nets:build" search.trials=7 search.seed=1
search.objectives=["params"] search.sampler="grid" search.sampler="nsga2" search.timeout="1h30m"
search.grid=["n_blocks"] search.grid_points=4 search.workers=2 pruning.pruner="none"
space.n_blocks={low=1,high=3} space.dropout=0.1 space.optimizer=["sgd","adam"] space.batch_size=64
space.learning_rate={low=0.001,high=0.1,log=true} space.depth={low=1,high=9} space.depth=["a","b"]
space.depth={low=0,high=9000000000000000000} space.rate={low=0.0,high=1.0,step=1e-320}
"""
LEGAL = _LEGAL.split()


def new_text(rng: random.Random) -> bytes:
    """Returns a study file of keys and values that are legal, but perhaps not together."""
    tables: dict[str, dict[str, str]] = {}
    for _ in range(rng.choice((2, 4, 8))):
        name, _, value = rng.choice(LEGAL).partition("=")
        section, _, key = name.partition(".")
        tables.setdefault(section, {})[key] = value
    if rng.random() < 0.3:
        section = rng.choice(list(tables))
        tables[section][rng.choice(list(tables[section]))] = rng.choice(NASTY_TOML)
    lines = [f"name = {rng.choice(NASTY_TOML)}"] if rng.random() < 0.2 else []
    for section, values in tables.items():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
    return "\n".join(lines).encode()


def study_case(folder: Path, rng: random.Random) -> str:
    """Reads a damaged study file; an accepted one must describe trials that can be trained."""
    path = folder / "study.toml"
    path.write_bytes(study_text(rng))
    if rng.random() < 0.02:
        special_file(path, rng)

    def accept(spec: Any) -> None:
        expect(from_json(to_json(spec)) == spec, "a spec that the database changes")
        expect(is_text(spec.name), f"the name {spec.name!r}")
        for end in ("low", "high"):
            params = draw(
                spec.space,
                lambda _, dim, end=end: (
                    dim.choices[0] if isinstance(dim, ChoiceDim) else getattr(dim, end)
                ),
            )
            trial = resolve(spec, number=0, params=params)
            json.dumps(asdict(trial), allow_nan=False)
        if spec.search.sampler.startswith("grid"):
            list(islice(cells(spec.space, spec.grid_dimensions, spec.search.grid_points), 100))

    try:
        return outcome_of(lambda: load_study_file(path), accept)
    finally:
        remove(path)


def remove(path: Path) -> None:
    """Removes a file, folder or link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


NASTY_JSON = (
    *(None, True, 0, -1, 1, 8, 4096, 1e308, -1e308, 0.5, 10**18, 10**30, 10**400, float("nan")),
    *("", "x", "\0", "\ud800", "x" * 5000, [], {}, [1], [0.5], [[]], {"a": 1}, ["a", "a"], "3"),
    *([1, 8, 8], [10**9] * 3, [4] * 13, [4096] * 12, ["b", "a", "c"], "gap", "flatten", 5, 7),
)


def model_folder(folder: Path) -> tuple[Path, bytes]:
    """Writes a small model once; returns its folder and its weights."""
    from hpsearch.nn.models import build
    from hpsearch.nn.serving.model_config import ModelConfig
    from hpsearch.nn.serving.predict import WEIGHTS, write_model

    whole = folder / "whole"
    if not whole.exists():
        spec = ModelSpec(widths=(4, 8), dropout=0.5)
        config = ModelConfig(
            model=spec,
            input_shape=(1, 8, 8),
            classes=("zero", "one", "two"),
            mean=(0.4,),
            std=(0.3,),
            provenance={"study": "s", "trial": 3},
        )
        whole.mkdir()
        write_model(whole, build(spec, (1, 8, 8), 3, seed=3), config)
    return whole, (whole / WEIGHTS).read_bytes()


def damage_config(path: Path, rng: random.Random) -> None:
    """Damages a model's ``config.json``: its bytes, its syntax or a value."""
    content = path.read_bytes()
    match rng.randrange(4):
        case 0:
            path.write_bytes(damaged(content, rng))
        case 1:
            depth = rng.choice((40, 400, 100_000))
            nested = rng.choice(("[" * depth, "[" * depth + "]" * depth, '{"a":' * depth))
            at = rng.choice((b'"mean": ', b'"provenance": ', b'"model": '))
            path.write_bytes(content.replace(at, at + nested.encode() + b', "x": '))
        case _:
            plain = json.loads(content)
            table = rng.choice([plain, plain, plain["model"]])
            table[rng.choice([*table, "extra"])] = rng.choice(NASTY_JSON)
            path.write_text(json.dumps(plain))


def damage_weights(path: Path, rng: random.Random) -> None:
    """Damages a model's weights: the bytes, their number, or the header that describes them."""
    content = path.read_bytes()
    match rng.randrange(5):
        case 0:
            path.write_bytes(damaged(content, rng))
        case 1:
            path.write_bytes(cut(content, rng))
        case 2:
            path.write_bytes(content + rng.randbytes(rng.choice((1, 8, 10_000))))
        case 3:
            at = rng.randrange(len(content))
            flipped = content[at] ^ 1 << rng.randrange(8)
            path.write_bytes(content[:at] + bytes([flipped]) + content[at + 1 :])
        case 4:
            (size,) = struct.unpack("<Q", content[:8])
            header = json.loads(content[8 : 8 + size])
            tensor = header[rng.choice(list(header))]
            values = ("I8", "F4", "F8_E8M0", "F64", [10**12], [0], [-1], [2**63], [0, 10**15], "x")
            tensor[rng.choice(("dtype", "shape", "data_offsets"))] = rng.choice(values)
            changed = json.dumps(header).encode()
            size = rng.choice((len(changed), len(changed), 2**40, 2**63, 0))
            path.write_bytes(struct.pack("<Q", size) + changed + content[8 + size :])


def model_case(folder: Path, rng: random.Random) -> str:
    """Loads a damaged model folder; an accepted one must have its weights, and predict."""
    from hpsearch.nn.serving.model_config import CONFIG
    from hpsearch.nn.serving.predict import WEIGHTS, load_model

    whole, weights = model_folder(folder)
    copy = folder / "copy"
    shutil.copytree(whole, copy)
    if rng.random() < 0.1:
        special_file(copy / rng.choice((CONFIG, WEIGHTS)), rng)
    elif rng.random() < 0.5:
        damage_config(copy / CONFIG, rng)
    else:
        damage_weights(copy / WEIGHTS, rng)

    def accept(model: Any) -> None:
        expect((copy / WEIGHTS).read_bytes() == weights, "other weights")
        channels, height, width = model.config.input_shape
        predictions = model.predict(np.full((2, height, width, channels), 99, np.uint8))
        sums = predictions.probabilities.sum(axis=1)
        expect(np.allclose(sums, 1), f"probabilities whose sums are {sums}")
        expect(len(set(predictions.names)) == len(predictions.names), "two equal classes")
        expect(all(map(is_text, predictions.names)), f"the classes {predictions.names!r}")

    try:
        return outcome_of(lambda: load_model(copy, device="cpu"), accept)
    finally:
        shutil.rmtree(copy)


def picture(mode: str, size: tuple[int, int] = (40, 24)) -> Image.Image:
    """Returns an image that no compression makes small."""
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
    pixels = rng.integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(kind: str, mode: str, **options: Any) -> bytes:
    """Returns the bytes of an image file."""
    buffer = io.BytesIO()
    picture(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def several(*modes: str) -> dict[str, Any]:
    """Returns the options of Pillow that save more images in the same file."""
    return {"save_all": True, "append_images": [picture(mode) for mode in modes]}


def images_of(kind: str) -> list[bytes]:
    """Returns whole files of a format: each mode and each compression that Pillow writes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = b"P2\n9 9\n99\n" + b" ".join(b"%d" % value for value in reversed(range(81)))
    match kind:
        case "jpg":
            return [
                encoded("JPEG", "RGB", exif=exif),
                encoded("JPEG", "L", progressive=True),
                encoded("JPEG", "CMYK"),
                encoded("MPO", "RGB", **several("RGB")),
            ]
        case "png":
            some = [encoded("PNG", mode) for mode in ("RGB", "L", "P", "1", "LA", "I;16")]
            return [*some, encoded("PNG", "RGBA", exif=exif), encoded("PNG", "P", **several("P"))]
        case "bmp":
            return [encoded("BMP", mode) for mode in ("RGB", "L", "P", "1", "RGBA")]
        case "gif":
            return [encoded("GIF", "P"), encoded("GIF", "L", **several("P", "L"))]
        case "pgm":
            return [encoded("PPM", "L"), encoded("PPM", "I;16"), plain]
        case "ppm":
            return [encoded("PPM", "RGB"), encoded("PPM", "1"), plain.replace(b"P2", b"P3")]
        case "tif":
            packings = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", None)
            some = [encoded("TIFF", "RGB", compression=packing) for packing in packings]
            gray = [encoded("TIFF", mode) for mode in ("L", "I;16", "1", "P")]
            return [*some, *gray, encoded("TIFF", "1", compression="group4")]
        case _:
            still = [encoded("WEBP", "RGB", exif=exif), encoded("WEBP", "RGBA", lossless=True)]
            return [*still, encoded("WEBP", "RGB", **several("RGB"))]


def foreign() -> list[bytes]:
    """Returns whole images of formats that are not promised, among them what starts Ghostscript."""
    kinds = ("EPS", "PDF", "ICO", "TGA", "SGI", "PCX", "IM", "DDS", "ICNS", "MSP")
    modes = {"MSP": "1"}
    files = [encoded(kind, modes.get(kind, "RGB")) for kind in kinds]
    files += [encoded("AVIF", "RGB")] if features.check("avif") else []
    files += [encoded("JPEG2000", "RGB")] if features.check("jpg_2000") else []
    return files


IMAGES = ("jpg", "png", "bmp", "gif", "pgm", "ppm", "tif", "webp")
FORMATS = (*IMAGES, "npz", "idx", "idx.gz")
_WHOLE: dict[str, list[bytes]] = {}


def whole_files(kind: str) -> list[bytes]:
    """Returns whole files of a format, made once."""
    if kind not in _WHOLE:
        _WHOLE["foreign"] = _WHOLE.get("foreign") or foreign()
        _WHOLE[kind] = images_of(kind) if kind in IMAGES else arrays_of(kind)
    return _WHOLE[kind]


def image_case(kind: str, folder: Path, rng: random.Random) -> str:
    """Reads a damaged image; one that is cut must be refused, or have all its pixels."""
    path = folder / f"image.{kind}"
    original = rng.choice(whole_files(kind))
    how = rng.choices(("damaged", "cut", "foreign", "special"), (70, 20, 9, 1))[0]
    channels = rng.choice((1, 3, 4))

    def read() -> Any:
        return read_image(path, size=16, channels=channels)

    def accept(pixels: np.ndarray) -> None:
        expect(pixels.shape == (16, 16, channels), f"the shape {pixels.shape}")
        expect(how in ("damaged", "cut"), f"a file that is {how}")
        if how == "cut":
            path.write_bytes(original)
            expect(np.array_equal(read(), pixels), "a part of an image")

    other = rng.choice(_WHOLE["foreign"])
    changed = {"damaged": damaged(original, rng), "cut": cut(original, rng), "foreign": other}
    path.write_bytes(changed.get(how, b""))
    if how == "special":
        special_file(path, rng)
    try:
        return outcome_of(read, accept)
    finally:
        remove(path)


def npy(shape: str, data: bytes, descr: str = "'|u1'") -> bytes:
    """Returns a ``.npy`` file whose header need not be true."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def arrays_of(kind: str) -> list[bytes]:
    """Returns whole ``.npz`` or IDX files with the images of :func:`pixels_of`."""
    images = pixels_of(kind)
    if kind == "npz":
        files = []
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, x=images, y=np.arange(len(images)))
            files.append(buffer.getvalue())
        return files
    idx = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()
    return [gzip.compress(idx, mtime=0) if kind.endswith(".gz") else idx]


def pixels_of(kind: str) -> np.ndarray:
    """Returns the images in the whole files of a format of arrays."""
    return np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)


def false_npz(rng: random.Random) -> bytes:
    """Returns an ``.npz`` file with a header that lies about the array behind it."""
    import zipfile

    shapes = ("(10**12,)", "(1000000000000, 8, 8)", "(-9, 8, 8)", "(9, 8, 9)", "()", "(" * 3000)
    kinds = ("'|u1'", "'|O'", "'|S1000000000'", "'<f8'", "'|u1", "[('a', '<u2')]", "-" * 9000 + "1")
    buffer = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
    with zipfile.ZipFile(buffer, "w", rng.choice(methods)) as archive:
        shape, kind = rng.choice((*shapes, "(9, 8, 8)")), rng.choice(kinds)
        if (shape, kind) == ("(9, 8, 8)", "'|u1'"):
            shape = "(9, 9, 8)"
        archive.writestr("x.npy", npy(shape, pixels_of("npz").tobytes(), kind))
    return buffer.getvalue()


def array_case(kind: str, folder: Path, rng: random.Random) -> str:
    """Reads a damaged ``.npz`` or IDX file; an accepted one must hold its images."""
    path = folder / f"arrays.{kind}"
    content = rng.choice(whole_files(kind))
    how = rng.choices(("damaged", "cut", "false", "special"), (60, 20, 19, 1))[0]
    if how == "false" and kind == "npz":
        changed = false_npz(rng)
    elif how == "false":
        changed = struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, rng.randrange(2**32), 8)
        changed = gzip.compress(changed) if kind.endswith(".gz") else changed
    else:
        changed = cut(content, rng) if how == "cut" else damaged(content, rng)
    path.write_bytes(changed)
    if how == "special":
        special_file(path, rng)

    def accept(images: np.ndarray) -> None:
        expect(how in ("damaged", "cut"), f"a file that is {how}")
        expect(kind == "idx" or np.array_equal(images, pixels_of(kind)), "other images")
        expect(images.size == pixels_of(kind).size or how == "damaged", "fewer images")

    def choose(names: list[str]) -> list[str]:
        if "x" not in names:
            raise DataError("no x")
        return ["x"]

    def read() -> Any:
        if kind == "npz":
            return read_npz(path, choose=choose)["x"]
        return read_idx(path, dimensions=3)

    try:
        return outcome_of(read, accept)
    finally:
        remove(path)


def cases_of(kind: str) -> dict[str, Case]:
    """Returns the cases of a kind of file, by the name of their row."""
    if kind != "images":
        return {kind: study_case if kind == "study" else model_case}

    def of_format(name: str) -> Case:
        case = image_case if name in IMAGES else array_case
        return lambda folder, rng: case(name, folder, rng)

    return {name: of_format(name) for name in FORMATS}


def answer(case: Case, name: str, number: int, *, seed: int, folder: Path) -> str:
    """Returns the outcome of one case: refused, accepted, or FAULT with the reason."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        outcome = case(folder, random.Random(f"{seed} {name} {number}"))
    except Exception as exc:
        where = traceback.extract_tb(exc.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return f"FAULT {type(exc).__name__} at {place}: {' '.join(str(exc).split())[:200]}"
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return outcome if taken < MOST_BYTES else f"FAULT took {taken:,} bytes of memory"


def answers(name: str, kind: str, numbers: range, *, seed: int) -> Iterator[tuple[int, str]]:
    """Yields the outcome of each case, run in this process."""
    case = cases_of(kind)[name]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it can live with
        for number in numbers:
            yield number, answer(case, name, number, seed=seed, folder=Path(folder))


def watched(name: str, kind: str, n: int, *, seed: int) -> Iterator[tuple[int, str]]:
    """Yields the outcome of each case, run in a child process that is replaced if it hangs."""
    start = 0
    while start < n:
        command = [sys.executable, __file__, kind, "--n", n, "--seed", seed, "--child", name, start]
        child = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(
            target=lambda out=child.stdout, lines=lines: [*map(lines.put, out), lines.put("")],
            daemon=True,
        )
        reader.start()
        reason = "ended"
        try:
            while line := lines.get(timeout=HANG_SECONDS):
                number, _, outcome = line.strip().partition(" ")
                start = int(number) + 1
                yield int(number), outcome
        except queue.Empty:
            reason = f"hung for {HANG_SECONDS:.0f} s"
        child.kill()
        code = child.wait()
        if start < n:
            yield start, f"FAULT the process {reason} (exit code {code})"
            start += 1


def main() -> None:
    """Fuzzes one kind of file, prints a table of the outcomes, and exits with 1 on a fault."""
    parser = parser_of(__doc__, seed=0)
    parser.add_argument("kind", choices=COUNTS)
    parser.add_argument("--n", type=int, help="cases; for images: of each format")
    parser.add_argument("--child", nargs=2, help="run these cases in this process")
    options = parser.parse_args()
    n = options.n or COUNTS[options.kind]
    if options.child:
        name, start = options.child[0], int(options.child[1])
        for number, outcome in answers(name, options.kind, range(start, n), seed=options.seed):
            print(number, outcome, flush=True)
        return
    print(describe_environment())
    print(f"          Pillow {Image.__version__}; {options.kind}, n = {n}, seed {options.seed}\n")
    rows, faults = [], []
    for name in cases_of(options.kind):
        begun, counts = time.perf_counter(), Counter[str]()
        for number, outcome in watched(name, options.kind, n, seed=options.seed):
            counts[outcome.split()[0]] += 1
            if outcome.startswith("FAULT"):
                faults.append(f"{name} {number}: {outcome}")
        seconds = time.perf_counter() - begun
        numbers = (counts["refused"], counts["accepted"], counts["FAULT"])
        rows.append([name, f"{n:,}", *(f"{count:,}" for count in numbers), f"{seconds:.0f}"])
    print_table(["files", "cases", "refused", "accepted", "faults", "seconds"], rows)
    print(*faults[:50], sep="\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
