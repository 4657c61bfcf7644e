"""A study whose images lie somewhere else here than where it was made."""

from __future__ import annotations

from dataclasses import replace

from hpsearch.core.spec import StudySpec
from hpsearch.errors import SpecError


def relocated(spec: StudySpec, dataset: str | None) -> StudySpec:
    """Returns the spec with its images looked for there; None leaves them where they are.

    Raises:
        SpecError: that is neither a name nor a path.
    """
    if dataset is None:
        return spec
    try:
        return replace(spec, data=replace(spec.data, dataset=dataset))
    except ValueError as exc:
        raise SpecError(f"--dataset: {exc}") from exc
