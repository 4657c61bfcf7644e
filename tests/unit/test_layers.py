"""The architecture's import rules (docs/architecture.md): rooms, sub-rooms and their libraries."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hpsearch

PACKAGE = Path(hpsearch.__file__).parent

# Each room, with the rooms that it may import. Every room may import errors.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "core": set(),
    "util": {"core"},
    "nn": {"core", "util"},
    "config": {"core", "util", "nn"},
    "search": {"core", "util", "nn"},
    "view": {"core", "util", "search"},
    "api": {"core", "util", "nn", "search", "view", "config"},
    "cli": {"util", "view", "api"},
}
# Inside a room an import may go down its list, never up. A name is a sub-room or a file.
SUB_ROOMS: dict[str, list[str]] = {
    "core": ["", "analysis"],  # "": the files that lie in the room itself
    "nn": ["user_code", "runtime", "data", "models", "training", "serving"],
    "search": ["storage", "samplers", "study", "worker", "jobs"],
    "view": ["format", "document", "report", "dashboard", "model", "terminal"],
}
# The third-party libraries that every file of a room or sub-room may import.
LIBRARIES: dict[str, set[str]] = {
    "core": {"numpy"},
    "config": {"pydantic"},
    "nn": {"numpy", "torch"},
    "nn/data": {"PIL", "mlxtend", "scipy", "sklearn", "torchvision"},
    "nn/serving": {"PIL", "onnxruntime", "pydantic", "safetensors"},
    "nn/training": {"safetensors"},
    "search": {"optuna", "sqlalchemy"},
    "search/storage": {"boto3", "botocore", "filelock", "psycopg"},
    "search/worker": {"torch"},  # it holds tensors, a model and a device
    "search/jobs": {"numpy", "pyarrow", "torch"},
    "view/document": {"plotly"},  # the type of a figure
    "view/dashboard": {"optuna_dashboard", "plotly", "waitress"},
    "view/model": {"jinja2", "matplotlib", "numpy"},
    "view/report": {"jinja2", "plotly"},
    "view/terminal": {"rich"},
    "cli": {"rich", "typer"},
}
FRONT_DOOR = {"hpsearch", "hpsearch.__main__"}  # may import everything; nothing may import them


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import statement: its target, and whether it runs when the module is loaded."""

    target: str
    at_load: bool


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("hpsearch", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """The room of one of our modules; "" for the front door."""
    return module.split(".")[1] if "." in module and module not in FRONT_DOOR else ""


def sub_room(module: str) -> str:
    """The sub-room of one of our modules: a folder, or a file that is listed as one."""
    parts = module.split(".")
    listed = SUB_ROOMS.get(room(module), [])
    return parts[2] if len(parts) > 2 and parts[2] in listed else ""


def imports(source: str, module: str, *, package: bool = False) -> list[Import]:
    """All imports in the source: at the top, inside functions, under TYPE_CHECKING, by name."""
    return list(_imports(ast.parse(source), module.split("."), package, at_load=True))


def _imports(node: ast.AST, here: list[str], package: bool, *, at_load: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(target=alias.name, at_load=at_load) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            kept = here[: len(here) - node.level + package]
            base = ".".join([*kept, *([base] if base else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield Import(target=inner if inner in MODULES else base, at_load=at_load)
    elif isinstance(node, ast.Call) and _calls_importer(node):
        yield Import(target=node.args[0].value, at_load=at_load)
    later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    later = later or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, here, package, at_load=at_load and not later)


def _calls_importer(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    first = call.args[0] if call.args else None
    named = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return named and name in ("import_module", "__import__")


def imports_of(module: str) -> list[Import]:
    """The imports of one of our modules."""
    path = MODULES[module]
    return imports(path.read_text(encoding="utf-8"), module, package=path.name == "__init__.py")


def forbidden(module: str, targets: list[str]) -> list[str]:
    """The imported names that the module's room or sub-room may not import."""
    return [target for target in targets if not _may_import(module, target)]


def _may_import(module: str, target: str) -> bool:
    top, here = target.split(".")[0], room(module)
    if top != "hpsearch":
        place = f"{here}/{sub_room(module)}"
        libraries = LIBRARIES.get(here, set()) | LIBRARIES.get(place, set())
        return top in libraries or top in sys.stdlib_module_names
    if target in FRONT_DOOR:
        return False
    if room(target) != here:
        return room(target) in ROOMS[here] | {"errors"}
    if here not in SUB_ROOMS:
        return True
    order = SUB_ROOMS[here]
    return order.index(sub_room(target)) <= order.index(sub_room(module))


@pytest.mark.parametrize("module", [name for name in MODULES if name not in FRONT_DOOR])
def test_a_module_imports_only_what_its_room_may(module):
    assert forbidden(module, [found.target for found in imports_of(module)]) == []


def test_every_module_lies_in_a_room_and_sub_room_that_the_rules_know():
    placed = {name for name in MODULES if name not in FRONT_DOOR}

    assert {room(name) for name in placed} == set(ROOMS)
    for name in placed:
        here = room(name)
        if here in SUB_ROOMS and name != f"hpsearch.{here}":
            assert sub_room(name) in SUB_ROOMS[here], name


def test_heavy_libraries_are_imported_when_a_command_runs():
    at_load: set[str] = set()
    waiting = ["hpsearch.cli.main"]
    while waiting:
        new = {found.target for found in imports_of(waiting.pop()) if found.at_load} - at_load
        at_load |= new
        waiting += [target for target in new if target in MODULES]

    libraries = {target.split(".")[0] for target in at_load}
    assert libraries - sys.stdlib_module_names == {"typer", "hpsearch"}


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {found.target for found in imports_of(module)} & set(MODULES)
        for module in MODULES
        if module not in FRONT_DOOR
    }
    while leaves := {module for module, targets in graph.items() if not targets & set(graph)}:
        graph = {module: targets for module, targets in graph.items() if module not in leaves}

    assert graph == {}, "these modules import each other, or one that is in a circle"


def test_a_module_name_and_a_class_name_stand_for_one_thing():
    names: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        if path.name != "__init__.py":
            names.setdefault(module.rpartition(".")[2], []).append(module)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names.setdefault(f"class {node.name}", []).append(module)

    assert {name: places for name, places in names.items() if len(places) > 1} == {}


def test_no_module_is_longer_than_400_lines():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}

    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_optunas_tables_are_known_to_one_file():
    knowing = [
        module
        for module in MODULES
        if any(found.target.startswith("optuna.storages._rdb") for found in imports_of(module))
    ]

    assert knowing == ["hpsearch.search.storage.tables"]


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("hpsearch.core.space", "hpsearch.nn.models"),
        ("hpsearch.core.space", "hpsearch.core.analysis.pareto"),
        ("hpsearch.core.space", "torch"),
        ("hpsearch.core.space", "pydantic"),
        ("hpsearch.core.space", "hpsearch"),
        ("hpsearch.nn.models", "hpsearch.search.study.study"),
        ("hpsearch.nn.models", "hpsearch.nn.training.loop"),
        ("hpsearch.nn.models", "optuna"),
        ("hpsearch.nn.models", "PIL"),
        ("hpsearch.search.storage.storage", "hpsearch.search.study.study"),
        ("hpsearch.search.study.study", "hpsearch.search.worker.launch"),
        ("hpsearch.search.study.study", "torch"),
        ("hpsearch.search.study.study", "hpsearch.view.format"),
        ("hpsearch.search.study.study", "rich.console"),
        ("hpsearch.view.report.report", "hpsearch.view.terminal.live"),
        ("hpsearch.view.terminal.live", "optuna"),
        ("hpsearch.view.terminal.live", "hpsearch.nn.data.dataset"),
        ("hpsearch.view.terminal.live", "hpsearch.cli.main"),
        ("hpsearch.cli.main", "hpsearch.search.worker.launch"),
        ("hpsearch.cli.main", "hpsearch.core.trial"),
        ("hpsearch.cli.main", "hpsearch.config"),
        ("hpsearch.cli.main", "torch"),
        ("hpsearch.config", "typer"),
        ("hpsearch.errors", "hpsearch.core.space"),
    ],
)
def test_a_forbidden_import_is_found(module, target):
    assert forbidden(module, [target]) == [target]


def test_the_walker_sees_imports_wherever_they_are():
    source = """
import numpy as np
from . import dimensions
from .space import draw
from hpsearch.core.analysis import pareto
if TYPE_CHECKING:
    import optuna
def late():
    from torch import nn
    import_module("rich.console")
"""
    found = imports(source, "hpsearch.core.pruning")

    assert [f.target for f in found if f.at_load] == [
        "numpy",
        "hpsearch.core.dimensions",
        "hpsearch.core.space",
        "hpsearch.core.analysis.pareto",
    ]
    assert [f.target for f in found if not f.at_load] == ["optuna", "torch", "rich.console"]
