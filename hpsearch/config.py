"""Read study files and options into a StudySpec; errors are one line each."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hpsearch.core import space
from hpsearch.core.dimensions import BUILT_IN
from hpsearch.core.pruning import Rule
from hpsearch.core.spec import DataSpec, RecipeSpec, SearchSpec, ShapeSpec, StudySpec, to_dict
from hpsearch.errors import SpecError, closest, expect_plain, expected_of, nearest, shown
from hpsearch.nn.data.dataset import DATASETS, default_name
from hpsearch.util.atomic import read_regular

SECTIONS: Mapping[str, type] = {
    "data": DataSpec,
    "train": RecipeSpec,
    "model": ShapeSpec,
    "search": SearchSpec,
    "pruning": Rule,
}
_TOP = ("name", *SECTIONS, "space")
_MOST_BYTES = 2**16  # of a study file; tomllib takes a minute for some files of a megabyte
_MIN_SIMILARITY = 0.8  # of difflib, for a key that may belong to another table


def load_study_file(path: str | Path, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Reads a study file; missing keys keep their built-in defaults.

    Args:
        path: a TOML file.
        overrides: values by dotted key ("search.trials") that replace the file's; None is ignored.

    Raises:
        SpecError: the file is missing or not TOML, or holds an unknown key or illegal value.
    """
    path = Path(os.path.expanduser(path))
    # A usual mistake: images are passed as the study file.
    images = None
    if os.path.isdir(path):  # unlike Path.is_dir, False for names that are too long
        images = "a folder"
    elif path.suffix == ".npz":
        images = "an .npz file"
    elif str(path) in DATASETS and not path.exists():
        images = "the name of a data set"
    if images is not None:
        hint = f"pass images as --dataset {shlex.quote(str(path))}"
        raise SpecError(f"study file {path}: found {images}, expected a TOML file; {hint}")
    try:
        content = _read(path)
        text = content.decode("utf-8-sig")  # Windows editors write a byte-order mark
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        raw = tomllib.loads(text)
    except FileNotFoundError as exc:
        hint = "pass the path of a TOML file (examples are in studies/)"
        raise SpecError(f"study file {path} does not exist; {hint}") from exc
    except OSError as exc:
        found = f"study file {path} cannot be read ({exc.strerror or exc})"
        raise SpecError(f"{found}; expected a TOML file") from exc
    except UnicodeDecodeError as exc:
        raise SpecError(
            f"study file {path} cannot be read ({exc}); expected a TOML file; save it as UTF-8"
        ) from exc
    except RecursionError as exc:
        found = "lists or tables nested too deep"
        raise SpecError(f"{path}: found {found}, expected a study file; flatten them") from exc
    except ValueError as exc:
        # tomllib lets pass what int() raises for numbers of more than 4,300 digits
        is_syntax = isinstance(exc, tomllib.TOMLDecodeError)
        problem = str(exc) if is_syntax else "a whole number of more than 4,300 digits"
        match = re.search(r"at line (\d+)", str(exc))
        line = text.splitlines()[int(match[1]) - 1] if match else ""
        hint = "fix that line"
        # The usual cause: a Windows path between double quotes, where \ starts an escape.
        if re.search(r'"[^"]*\\', line):
            hint = "write the path with / for \\, or between single quotes"
        raise SpecError(f"{path}: found invalid TOML ({problem}); {hint}") from exc
    raw.setdefault("name", path.stem)
    return build_spec(raw, overrides, source=str(path))


def _read(path: Path) -> bytes:
    """Returns the bytes of a study file, which may be a pipe that the shell opened.

    Raises:
        OSError: it cannot be read, is larger than 64 KiB, or is a special file of another kind.
    """
    if str(path) != "/dev/stdin" and not str(path).startswith("/dev/fd/"):
        return read_regular(path, most=_MOST_BYTES)
    with path.open("rb") as file:  # as by <(…): its writer runs already
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {_MOST_BYTES:,} bytes", str(path))
    return content


def read_spec(study_file: Path | None, overrides: Mapping[str, Any]) -> StudySpec:
    """Reads a study file (None: the built-in default) and applies the overrides."""
    if study_file is None:
        return build_spec(None, overrides)
    return load_study_file(study_file, overrides)


def overridden(spec: StudySpec, overrides: Mapping[str, Any]) -> StudySpec:
    """Returns the spec with values replaced by dotted key; None is ignored.

    Raises:
        SpecError: an unknown key or an illegal value.
    """
    if all(value is None for value in overrides.values()):
        return spec
    return replace(build_spec(to_dict(spec), overrides), space=spec.space)


def build_spec(
    raw: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    source: str = "options",
) -> StudySpec:
    """Builds a spec from the built-in default, a study file's tables and overrides, in this order.

    Raises:
        SpecError: an unknown key or an illegal value; the message begins with ``source``.
    """
    try:
        # Before all else: values nested too deep cannot even be printed.
        for key, value in (*(raw or {}).items(), *(overrides or {}).items()):
            expect_plain(key, value)
        tables = _merge(raw or {}, overrides or {}, source)
        parts = {name: _section(name, kind, tables) for name, kind in SECTIONS.items()}
        model, table = parts["model"], tables.get("space", {})
        custom_model, custom_training = (
            model.factory is not None,
            parts["train"].function is not None,
        )
        # User code may add dimensions; otherwise only the built-in ones have an effect.
        for name in {} if custom_model or custom_training else table:
            if name not in BUILT_IN:
                hint = _key_hint(name, BUILT_IN)
                raise ValueError(f"space.{name}: found an unknown dimension; {hint}")
        dims = space.overlay(
            model.widths, table, custom_model=custom_model, custom_training=custom_training
        )
        name = tables.get("name", default_name(parts["data"].dataset))
        if not isinstance(name, str):
            raise ValueError(f"name: found {shown(name)}, expected a text")
        return StudySpec(name=name, space=dims, **parts)
    except ValueError as exc:
        raise SpecError(f"{source}: {exc}") from exc


def _merge(raw: Mapping[str, Any], overrides: Mapping[str, Any], source: str) -> dict[str, Any]:
    for key, value in raw.items():
        if key not in _TOP:
            hint = _key_hint(key, _TOP)
            raise SpecError(f"{source}: found the unknown key {shown(key)}; {hint}")
        if key != "name" and not isinstance(value, Mapping):
            raise SpecError(f"{source}: {key}: found {shown(value)}, expected a table [{key}]")
    tables = {key: dict(v) if isinstance(v, Mapping) else v for key, v in raw.items()}
    for dotted, value in overrides.items():
        if value is None:
            continue
        section, _, key = dotted.rpartition(".")
        if section:
            tables.setdefault(section, {})[key] = value
        else:
            tables[key] = value
    return tables


def _key_hint(word: str, known: Iterable[str]) -> str:
    """Returns a hint for an unknown key: the table it belongs to, else the known keys."""
    known = list(known)
    tables = {key: section for section, kind in SECTIONS.items() for key in _keys(kind)}
    tables |= dict.fromkeys(BUILT_IN, "space")
    match = closest(word, [*known, *tables, "name"], cutoff=_MIN_SIMILARITY)
    if match is None or match in known:
        return nearest(word, known)
    if match == "name":
        return "the study's name belongs at the top, as name, above all tables"
    return f"{match} belongs under [{tables[match]}]"


def _keys(kind: type) -> list[str]:
    fields: Iterable[str] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return [field for field in fields if not field.startswith("__")]


def _section(name: str, kind: type, tables: Mapping[str, Any]) -> Any:
    table = dict(tables.get(name, {}))
    if not isinstance(dataset := table.get("dataset", ""), str | PathLike):
        # Scripts may pass arrays, which are too long to print.
        found = repr(dataset) if isinstance(dataset, int | float) else f"a {type(dataset).__name__}"
        raise ValueError(
            f"{name}.dataset: found {found}, expected a name or a path; save arrays with"
            " numpy.savez(path, x_train=images, y_train=labels) and pass that path"
        )
    for key in ("timeout", "trial_timeout") if name == "search" else ():
        if isinstance(table.get(key), str):
            table[key] = parse_duration(table[key], key=key)
    try:
        # Strict JSON accepts tables and lists, but neither true nor "3" for a number.
        return TypeAdapter(kind).validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as exc:
        raise ValueError(_first_problem(name, kind, exc)) from exc


def _first_problem(section: str, kind: type, exc: ValidationError) -> str:
    """One line from pydantic's report: the dotted key, the value found and the value expected."""
    error = exc.errors()[0]
    key = ".".join([section, *(str(part) for part in error["loc"])])
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "unexpected_keyword_argument":
        return f"{key}: found an unknown key; {_key_hint(str(error['loc'][-1]), _keys(kind))}"
    if error["type"] == "tuple_type" and isinstance(error["input"], str):
        parts = [part.strip() for part in error["input"].split(",")]
        example = json.dumps(parts)[:100]
        return f"{key}: found {shown(error['input'])}, expected a list, e.g. {example}"
    return f"{key}: found {shown(error['input'])}, expected {expected_of(error)}"


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str, *, key: str = "timeout") -> float:
    """Returns the seconds in a duration such as ``90``, ``30m`` or ``1h30m``.

    ``key`` is the setting that an error names.

    Raises:
        ValueError: the text is not a duration.

    >>> parse_duration("1h30m"), parse_duration("45")
    (5400.0, 45.0)
    """
    parts = re.fullmatch(r"(?:\d+(?:\.\d+)?[smhd])+", text)
    if parts:
        return sum(float(n) * _UNITS[u] for n, u in re.findall(r"([\d.]+)([smhd])", text))
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    raise ValueError(f"{key}: found {shown(text)}, expected a duration such as 90s, 30m or 1h30m")
