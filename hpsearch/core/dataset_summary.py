"""What is known of a folder's images by their names alone, before any is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """How many images there are of each class in all, and how many each part of the split gets."""

    classes: Mapping[str, int]
    train: int
    val: int
    test: int
