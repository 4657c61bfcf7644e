"""Give it images, get the trade-off: CNNs on the Pareto front of accuracy against cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.api import StudyHandle as StudyHandle
    from hpsearch.api import open_study as open_study
    from hpsearch.api import run as run
    from hpsearch.config import build_spec as build_spec
    from hpsearch.config import load_study_file as load_study_file
    from hpsearch.core.trial import Epoch as Epoch
    from hpsearch.errors import HpsearchError as HpsearchError
    from hpsearch.evidence import compare as compare
    from hpsearch.evidence import confirm as confirm
    from hpsearch.home import train as train
    from hpsearch.nn.export import load_model as load_model

_HOMES = {
    "Epoch": "hpsearch.core.trial",
    "HpsearchError": "hpsearch.errors",
    "build_spec": "hpsearch.config",
    "StudyHandle": "hpsearch.api",
    "compare": "hpsearch.evidence",
    "confirm": "hpsearch.evidence",
    "load_model": "hpsearch.nn.export",
    "load_study_file": "hpsearch.config",
    "open_study": "hpsearch.api",
    "run": "hpsearch.api",
    "train": "hpsearch.home",
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
    """Loads a public name when it is first asked for, so that importing hpsearch is cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hpsearch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
