"""A cache of decoded images in the folder of each test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    """The folder of the cache, which does not exist yet."""
    monkeypatch.setenv("HPSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
