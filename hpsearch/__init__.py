"""Give it images, get the trade-off: CNNs on the Pareto front of accuracy against cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.config import build_spec as build_spec
    from hpsearch.config import load_study_file as load_study_file
    from hpsearch.errors import HpsearchError as HpsearchError
    from hpsearch.home import train as train
    from hpsearch.nn.export import load_model as load_model

_HOMES = {
    "HpsearchError": "hpsearch.errors",
    "build_spec": "hpsearch.config",
    "load_model": "hpsearch.nn.export",
    "load_study_file": "hpsearch.config",
    "train": "hpsearch.home",
}

__all__ = ["HpsearchError", "build_spec", "load_model", "load_study_file", "train"]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for, so that importing hpsearch is cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hpsearch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
