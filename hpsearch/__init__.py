"""Give it images, get the trade-off: CNNs on the Pareto front of accuracy against cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.api.evaluate import compare as compare
    from hpsearch.api.evaluate import confirm as confirm
    from hpsearch.api.run import run as run
    from hpsearch.api.studies import StudyHandle as StudyHandle
    from hpsearch.api.studies import open_study as open_study
    from hpsearch.api.train import train as train
    from hpsearch.config import build_spec as build_spec
    from hpsearch.config import load_study_file as load_study_file
    from hpsearch.core.trial import Epoch as Epoch
    from hpsearch.errors import HpsearchError as HpsearchError
    from hpsearch.nn.serving.predict import load_model as load_model

_MODULES = {
    "Epoch": "hpsearch.core.trial",
    "HpsearchError": "hpsearch.errors",
    "build_spec": "hpsearch.config",
    "StudyHandle": "hpsearch.api.studies",
    "compare": "hpsearch.api.evaluate",
    "confirm": "hpsearch.api.evaluate",
    "load_model": "hpsearch.nn.serving.predict",
    "load_study_file": "hpsearch.config",
    "open_study": "hpsearch.api.studies",
    "run": "hpsearch.api.run",
    "train": "hpsearch.api.train",
}

__all__ = [
    "Epoch",
    "HpsearchError",
    "StudyHandle",
    "build_spec",
    "compare",
    "confirm",
    "load_model",
    "load_study_file",
    "open_study",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that importing hpsearch is cheap."""
    if name not in _MODULES:
        raise AttributeError(f"module 'hpsearch' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
