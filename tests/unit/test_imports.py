"""What importing hpsearch costs, and that its public names are there."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from importlib.metadata import version

import pytest

import hpsearch

HEAVY = ("torch", "torchvision", "optuna", "plotly", "pandas", "sqlalchemy", "sklearn", "rich")


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs the code in a Python of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "code",
    [
        "import hpsearch",
        "import hpsearch.cli",
        "from hpsearch.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from hpsearch.cli import main\ntry: main(['run', '--help'])\nexcept SystemExit: pass",
        "from hpsearch.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_looking_at_hpsearch_imports_nothing_heavy(code):
    report = f"\nimport sys\nsys.stderr.write(' '.join({{*{HEAVY}}} & set(sys.modules)))"

    process = python(code + report)

    assert (process.returncode, process.stderr) == (0, "")


def test_python_dash_m_is_the_command():
    process = subprocess.run(
        [sys.executable, "-m", "hpsearch", "--version"], capture_output=True, text=True
    )

    assert process.returncode == 0
    assert process.stdout == f"hpsearch {version('hpsearch')}\n"
    assert process.stderr == ""


def test_every_public_name_is_there():
    assert set(hpsearch.__all__) == set(hpsearch._HOMES)
    for name in hpsearch.__all__:
        assert getattr(hpsearch, name).__name__ == name
        assert name in dir(hpsearch)


def test_a_name_that_is_not_there_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = hpsearch.serach


def test_every_module_imports_and_has_the_names_it_promises():
    names = [m.name for m in pkgutil.walk_packages(hpsearch.__path__, "hpsearch.")]
    modules = [importlib.import_module(n) for n in names if n != "hpsearch.__main__"]

    for module in modules:
        missing = [name for name in getattr(module, "__all__", []) if not hasattr(module, name)]
        assert missing == [], module.__name__
