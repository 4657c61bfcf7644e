"""What importing hpsearch costs, and that its public names are there."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

import hpsearch

HEAVY = ("torch", "torchvision", "optuna", "plotly", "pandas", "sqlalchemy", "sklearn", "rich")


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs the code in a new Python process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "code",
    [
        "import hpsearch",
        "import hpsearch.cli.main",
        "from hpsearch.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from hpsearch.cli.main import main\ntry: main(['run', '--help'])\nexcept SystemExit: pass",
        "from hpsearch.cli.main import main\ntry: main(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_looking_at_hpsearch_imports_nothing_heavy(code):
    report = f"\nimport sys\nsys.stderr.write(' '.join({{*{HEAVY}}} & set(sys.modules)))"

    process = python(code + report)

    assert (process.returncode, process.stderr) == (0, "")


def test_a_training_leaves_torchs_compiler_where_it_is():
    """The canary of nn/runtime/device: torch imports its compiler at an optimizer's first call."""
    process = python(
        """
import sys, torch
from hpsearch.core.spec import ModelSpec, TrainSpec
from hpsearch.nn.data.tensors import Tensors
from hpsearch.nn.models import build, measure_costs
from hpsearch.nn.training.loop import epochs
cpu, shape = torch.device("cpu"), (1, 8, 8)
images, labels = torch.zeros(32, *shape, dtype=torch.uint8), torch.zeros(32, dtype=torch.int64)
data = Tensors(train_images=images, train_labels=labels, val_images=images, val_labels=labels,
               mean=(0.0,), std=(1.0,), classes=2)
for optimizer in ("sgd", "adam", "adamw", "rmsprop"):
    model = build(ModelSpec(widths=(4,)), shape, 2, seed=0)
    measure_costs(model, shape, device=cpu)
    spec = TrainSpec(epochs=1, batch_size=16, optimizer=optimizer, learning_rate=0.1, momentum=0.9)
    list(epochs(model, data, spec, device=cpu))
sys.stderr.write("torch._dynamo" * ("torch._dynamo" in sys.modules))
"""
    )
    assert (process.returncode, process.stderr) == (0, "")


def test_python_dash_m_is_the_command():
    process = subprocess.run(
        [sys.executable, "-m", "hpsearch", "--version"], capture_output=True, text=True
    )

    assert process.returncode == 0
    assert process.stdout == f"hpsearch {version('hpsearch')}\n"
    assert process.stderr == ""


def test_every_public_name_is_there():
    assert set(hpsearch.__all__) == set(hpsearch._MODULES)
    for name in hpsearch.__all__:
        assert getattr(hpsearch, name).__name__ == name
        assert name in dir(hpsearch)


def test_a_name_that_is_not_there_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = hpsearch.serach


def test_a_type_checker_sees_the_signatures_of_the_package_where_it_is_installed(tmp_path):
    """Not in the checkout, where mypy reads sources: without py.typed each name would be Any."""
    venv.create(tmp_path / "user")
    (site,) = tmp_path.glob("user/lib/python*/site-packages")
    shutil.copytree(Path(hpsearch.__file__).parent, site / "hpsearch")
    (tmp_path / "script.py").write_text("import hpsearch\n\nreveal_type(hpsearch.run)\n")

    mypy = [sys.executable, "-m", "mypy", "--cache-dir", os.devnull]
    process = subprocess.run(
        [*mypy, "--python-executable", "user/bin/python", "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert process.returncode == 0, process.stdout
    assert 'Revealed type is "def (spec_or_path: hpsearch.core.' in process.stdout


def test_every_module_imports_and_has_the_names_it_promises():
    names = [m.name for m in pkgutil.walk_packages(hpsearch.__path__, "hpsearch.")]
    modules = [importlib.import_module(n) for n in names if n != "hpsearch.__main__"]

    for module in modules:
        missing = [name for name in getattr(module, "__all__", []) if not hasattr(module, name)]
        assert missing == [], module.__name__
