"""The house's walls (DESIGN §3): which room may import which, and which library lives where."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hpsearch

HOUSE = Path(hpsearch.__file__).parent

# An import may go down this list, never up.
ROOMS = {
    "core": {"core"},
    "nn": {"core", "nn"},
    "search": {"core", "nn", "search"},
    "view": {"core", "search", "view"},
    "door": {"core", "nn", "search", "view", "door"},
    "errors": {"errors"},  # and every room may import errors
}
LIBRARIES = {
    "core": {"numpy"},
    "nn": {"numpy", "torch", "torchvision", "PIL", "mlxtend", "sklearn", "scipy", "safetensors"},
    "search": {"optuna", "sqlalchemy", "filelock"},
    "view": {"rich", "plotly", "optuna_dashboard", "waitress"},
    "door": set(),
    "errors": set(),
}
LIBRARIES_OF_FILES = {
    "hpsearch.search.worker.trainer": {"torch"},  # the glue: it holds tensors and a device
    "hpsearch.search.worker.bounds": {"torch"},  # the type of the device
    "hpsearch.search.worker.checkpointer": {"torch"},  # likewise
    "hpsearch.search.storage.artifacts": {"boto3", "botocore"},  # S3, its patience and its errors
    "hpsearch.search.worker.launch": {"torch"},  # the type of the device
    "hpsearch.search.jobs.retrain": {
        "torch",
        "numpy",
    },  # the glue: it holds a model and its test images
    "hpsearch.nn.training.failures": {"torch"},  # the types of a net and a device
    "hpsearch.search.jobs.export": {"pyarrow"},
    "hpsearch.nn.serving.onnx": {"onnxruntime"},
    "hpsearch.view.model.confusion": {"PIL", "numpy"},  # a picture of numbers
    "hpsearch.cli.main": {"typer", "rich"},
    "hpsearch.cli.model_commands": {"typer", "rich"},
    "hpsearch.cli.evaluation_commands": {"typer", "rich"},
    "hpsearch.cli.inspect_commands": {"typer", "rich"},
    "hpsearch.cli.output": {"typer", "rich"},
    "hpsearch.cli.options": {"typer"},
    "hpsearch.config": {"pydantic"},
}


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import of a module: whom it names, and whether it happens when the module is loaded."""

    target: str
    at_load: bool


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = ("hpsearch", *path.relative_to(HOUSE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """The room of one of our modules."""
    parts = module.split(".")
    if module == "hpsearch.errors":
        return "errors"
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "door"


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
    """Those of the imported names that stand behind a wall."""
    here = room(module)
    libraries = LIBRARIES[here] | LIBRARIES_OF_FILES.get(module, set())
    bad = []
    for target in targets:
        top = target.split(".")[0]
        if top == "hpsearch":
            allowed = room(target) in ROOMS[here] | {"errors"}
        else:
            allowed = top in libraries or top in sys.stdlib_module_names
        bad += [] if allowed else [target]
    return bad


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module):
    assert forbidden(module, [found.target for found in imports_of(module)]) == []


def test_heavy_libraries_wait_for_their_command_at_the_door():
    at_load = {
        found.target.split(".")[0] for found in imports_of("hpsearch.cli.main") if found.at_load
    }

    assert at_load - sys.stdlib_module_names == {"typer", "hpsearch"}
    ours = [found.target for found in imports_of("hpsearch.cli.main") if found.at_load]
    light = {"measuring", "options", "reading", "taking", "terminal", "errors"}
    assert {t for t in ours if t.startswith("hpsearch")} == {f"hpsearch.{name}" for name in light}


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {found.target for found in imports_of(module)} & set(MODULES) for module in MODULES
    }
    for entry in ("hpsearch", "hpsearch.__main__"):  # the front door knows the house, not it them
        graph.pop(entry)
    while leaves := {module for module, targets in graph.items() if not targets & set(graph)}:
        graph = {module: targets for module, targets in graph.items() if module not in leaves}

    assert graph == {}, "these modules import each other, or one that is in a circle"


def test_nothing_in_the_house_imports_its_front_door():
    doors = {"hpsearch.cli.main", "hpsearch.__main__", "hpsearch"}
    guests = {
        module: {found.target for found in imports_of(module)} & doors
        for module in MODULES
        if module not in doors
    }

    assert {module: targets for module, targets in guests.items() if targets} == {}


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("hpsearch.core.space", "hpsearch.nn.models.cnn"),
        ("hpsearch.core.space", "torch"),
        ("hpsearch.core.space", "pydantic"),
        ("hpsearch.nn.models.cnn", "hpsearch.search.study.study"),
        ("hpsearch.nn.models.cnn", "optuna"),
        ("hpsearch.search.study.study", "torch"),
        ("hpsearch.search.study.study", "hpsearch.view.terminal.trial_tables"),
        ("hpsearch.search.study.study", "rich.console"),
        ("hpsearch.view.terminal.trial_tables", "optuna"),
        ("hpsearch.view.terminal.trial_tables", "hpsearch.nn.data.dataset"),
        ("hpsearch.view.terminal.trial_tables", "hpsearch.cli.main"),
        ("hpsearch.cli.main", "torch"),
        ("hpsearch.config", "typer"),
        ("hpsearch.errors", "hpsearch.core.space"),
    ],
)
def test_an_import_through_a_wall_is_found(module, target):
    assert forbidden(module, [target]) == [target]


def test_the_walker_sees_imports_wherever_they_hide():
    source = """
import numpy as np
from . import pruning
from .space import draw
from hpsearch.core import pareto
if TYPE_CHECKING:
    import optuna
def late():
    from torch import nn
    import_module("rich.console")
"""
    found = imports(source, "hpsearch.core.analysis.pruning_stats")

    assert [f.target for f in found if f.at_load] == [
        "numpy",
        "hpsearch.core.pruning",
        "hpsearch.core.space",
        "hpsearch.core.analysis.pareto",
    ]
    assert [f.target for f in found if not f.at_load] == ["optuna", "torch", "rich.console"]


def test_every_file_lies_in_a_room_or_at_the_door():
    doors = {name for name in MODULES if room(name) == "door"}

    assert doors == {
        "hpsearch",
        "hpsearch.__main__",
        "hpsearch.api.run",
        "hpsearch.cli.main",
        "hpsearch.config",
        "hpsearch.api.evaluate",
        "hpsearch.api.train",
        "hpsearch.cli.evaluation_commands",
        "hpsearch.cli.options",
        "hpsearch.cli.inspect_commands",
        "hpsearch.cli.model_commands",
        "hpsearch.cli.output",
    }
