"""Study files and options, read into a StudySpec: everything wrong is said in one line."""

from __future__ import annotations

import json
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
from hpsearch.errors import SpecError, closest, nearest
from hpsearch.nn.data.dataset import DATASETS, default_name

SECTIONS: Mapping[str, type] = {
    "data": DataSpec,
    "train": RecipeSpec,
    "model": ShapeSpec,
    "search": SearchSpec,
    "pruning": Rule,
}
_TOP = ("name", *SECTIONS, "space")
_ALIKE = 0.8  # of difflib, for a key that is looked for in another table

# The words of `hpsearch run` and of :func:`hpsearch.run` that go over a study file, with its keys.
WORDS: Mapping[str, str] = {
    "study": "name",
    "dataset": "data.dataset",
    "image_size": "data.image_size",
    "epochs": "train.epochs",
    "trials": "search.trials",
    "timeout": "search.timeout",
    "seed": "search.seed",
    "sampler": "search.sampler",
    "objectives": "search.objectives",
    "workers": "search.workers",
    "pruner": "pruning.pruner",
}


def overrides_of(words: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the words of a command put over a study file, by dotted key.

    Words that are none of :data:`WORDS` are passed over; one that is missing or None puts nothing.

    >>> {k: v for k, v in overrides_of({"seed": 7, "device": "cpu"}).items() if v is not None}
    {'search.seed': 7}
    """
    overrides = {key: words.get(word) for word, key in WORDS.items()}
    names = overrides["search.objectives"]
    if names is not None:
        listed = names.split(",") if isinstance(names, str) else names
        overrides["search.objectives"] = [name.strip() for name in listed]
    return overrides


def load_study_file(path: str | Path, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Reads a study file; what it leaves out keeps its built-in default.

    Args:
        path: a TOML file.
        overrides: values by dotted key ("search.trials") that go over the file's; None is ignored.

    Raises:
        SpecError: the file is not there, is not TOML, or holds an unknown key or illegal value.
    """
    path = Path(path)
    if (images := _images_instead(path)) is not None:
        hint = f"images are named by --dataset {shlex.quote(str(path))}"
        raise SpecError(f"study file {path}: found {images}, expected a TOML file; {hint}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows write a mark first
        raw = tomllib.loads(text)
    except FileNotFoundError as exc:
        hint = "give the path of a TOML study file (examples are in studies/)"
        raise SpecError(f"study file {path} is not there; {hint}") from exc
    except OSError as exc:
        reason = exc.strerror or exc
        raise SpecError(
            f"study file {path} cannot be read ({reason}); expected a TOML file"
        ) from exc
    except UnicodeDecodeError as exc:
        raise SpecError(
            f"study file {path} cannot be read ({exc}); expected a TOML file; save it as UTF-8"
        ) from exc
    except tomllib.TOMLDecodeError as exc:
        raise SpecError(f"{path}: found invalid TOML ({exc}); {_to_mend(text, exc)}") from exc
    raw.setdefault("name", path.stem)
    return build_spec(raw, overrides, source=str(path))


def _images_instead(path: Path) -> str | None:
    """Returns what images were given for a study file, as who has no study file may well do."""
    if path.is_dir():
        return "a folder"
    if path.suffix == ".npz":
        return "an .npz file"
    return "the name of a data set" if str(path) in DATASETS and not path.exists() else None


def _to_mend(text: str, error: tomllib.TOMLDecodeError) -> str:
    """Returns what to do about invalid TOML: a Windows path between double quotes is usual."""
    place = re.search(r"at line (\d+)", str(error))
    line = text.splitlines()[int(place[1]) - 1] if place else ""
    if re.search(r'"[^"]*\\', line):
        return "write the path with / for \\, or between single quotes"
    return "mend that line"


def read_spec(study_file: Path | None, overrides: Mapping[str, Any]) -> StudySpec:
    """Reads a study file, or the built-in default where there is none, with overrides over it."""
    if study_file is None:
        return build_spec(None, overrides)
    return load_study_file(study_file, overrides)


def overridden(spec: StudySpec, overrides: Mapping[str, Any]) -> StudySpec:
    """Returns the spec with values by dotted key over its own; None is ignored.

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
    """Builds a spec from a study file's tables and overrides, over the built-in default.

    Raises:
        SpecError: an unknown key or an illegal value; the message begins with ``source``.
    """
    tables = _merge(raw or {}, overrides or {}, source)
    try:
        parts = {name: _section(name, kind, tables) for name, kind in SECTIONS.items()}
        dims = _space(tables.get("space", {}), parts["model"], parts["train"])
        name = tables.get("name", default_name(parts["data"].dataset))
        if not isinstance(name, str):
            raise ValueError(f"name: found {name!r}, expected a text")
        return StudySpec(name=name, space=dims, **parts)
    except ValueError as exc:
        raise SpecError(f"{source}: {exc}") from exc


def _merge(raw: Mapping[str, Any], overrides: Mapping[str, Any], source: str) -> dict[str, Any]:
    for key, value in raw.items():
        if key not in _TOP:
            raise SpecError(f"{source}: found the unknown key {key!r}; {_meant(key, _TOP)}")
        if key != "name" and not isinstance(value, Mapping):
            raise SpecError(f"{source}: {key}: found {value!r}, expected a table [{key}]")
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


def _space(table: Mapping[str, Any], model: ShapeSpec, train: RecipeSpec) -> dict[str, Any]:
    custom_model, custom_training = model.factory is not None, train.function is not None
    for name in {} if custom_model or custom_training else table:
        if name not in BUILT_IN:
            hint = _meant(name, BUILT_IN)
            raise ValueError(f"space.{name}: found an unknown dimension; {hint}")
    return space.overlay(
        model.widths, table, custom_model=custom_model, custom_training=custom_training
    )


def _meant(word: str, here: Iterable[str]) -> str:
    """Returns a hint for a key that is not known where it stands: the table that it belongs to.

    Where there is none, the keys that are known where it stands.
    """
    here = list(here)
    tables = {key: section for section, kind in SECTIONS.items() for key in _keys(kind)}
    tables |= dict.fromkeys(BUILT_IN, "space")
    meant = closest(word, [*here, *tables, "name"], cutoff=_ALIKE)
    if meant is None or meant in here:
        return nearest(word, here)
    if meant == "name":
        return "the study's name belongs at the top, as name, above all tables"
    return f"{meant} belongs under [{tables[meant]}]"


def _keys(kind: type) -> list[str]:
    fields: Iterable[str] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return [field for field in fields if not field.startswith("__")]


def _section(name: str, kind: type, tables: Mapping[str, Any]) -> Any:
    table = dict(tables.get(name, {}))
    if not isinstance(table.get("dataset", ""), str | PathLike):
        raise ValueError(f"{name}.dataset: {_no_dataset(table['dataset'])}")
    if name == "search" and isinstance(table.get("timeout"), str):
        table["timeout"] = parse_duration(table["timeout"])
    try:
        # As JSON: strictness then takes tables and lists, but neither true nor "3" for a number.
        return TypeAdapter(kind).validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as exc:
        raise ValueError(_first_problem(name, kind, exc)) from exc


def _no_dataset(value: Any) -> str:
    """Says what a data set is named by; arrays, which scripts have at hand, are not printed."""
    found = repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
    hint = "save arrays with numpy.savez(path, x_train=images, y_train=labels) and give that path"
    return f"found {found}, expected a name or a path; {hint}"


def _first_problem(section: str, kind: type, exc: ValidationError) -> str:
    """One line from pydantic's report: the dotted key, what was found, what was expected."""
    error = exc.errors()[0]
    key = ".".join([section, *(str(part) for part in error["loc"])])
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "unexpected_keyword_argument":
        return f"{key}: found an unknown key; {_meant(str(error['loc'][-1]), _keys(kind))}"
    if error["type"] == "tuple_type" and isinstance(error["input"], str):
        parts = [part.strip() for part in error["input"].split(",")]
        return f"{key}: found {error['input']!r}, expected a list, e.g. {json.dumps(parts)}"
    return f"{key}: found {error['input']!r}, expected {expected_of(error)}"


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "a text",
    "bool": "true or false",
    "tuple": "a list",
}
_BOUNDS = {"greater_than_equal": ("ge", "or more"), "less_than_equal": ("le", "or less")}


def expected_of(error: Mapping[str, Any]) -> str:
    """Returns what pydantic expected in one of its errors, in words for who never heard of it.

    >>> expected_of({"type": "int_type", "input": "7", "msg": "Input should be a valid integer"})
    'a whole number without quotes'
    >>> expected_of({"type": "less_than_equal", "input": 3, "ctx": {"le": 2}})
    '2 or less'
    """
    if error["type"] in _BOUNDS:
        bound, words = _BOUNDS[error["type"]]
        return f"{error['ctx'][bound]:g} {words}"
    kind, _, what = str(error["type"]).partition("_")
    if kind not in _KINDS or what not in ("type", "parsing", "from_float"):
        return re.sub(r"^Input should be ", "", error["msg"])
    is_quoted = what == "type" and _reads_as_more(error["input"])
    return _KINDS[kind] + " without quotes" * is_quoted


def _reads_as_more(value: Any) -> bool:
    """Whether a text says something that is none: a number, or true or false."""
    return isinstance(value, str) and re.fullmatch(r"[-+.\deE]*\d|true|false", value) is not None


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Returns the seconds in a duration such as ``90``, ``30m`` or ``1h30m``.

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
    raise ValueError(f"timeout: found {text!r}, expected a duration such as 90s, 30m or 1h30m")
