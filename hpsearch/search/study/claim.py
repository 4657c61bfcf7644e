"""A trial in the hands of the worker that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpsearch.core.space import Value
from hpsearch.core.spec import TrialSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A trial that this worker runs: what to train, and the marks by which it is the worker's.

    ``trial_id`` is its id in the database, ``start`` counts from 1, ``attributes`` is what earlier
    starts have left.
    """

    spec: TrialSpec
    params: Mapping[str, Value]
    control: bool
    trial_id: int
    start: int
    mark: str
    attributes: Mapping[str, Any]

    @property
    def number(self) -> int:
        """The trial's number, from 0."""
        return self.spec.number
