"""What all tests share: a place of their own for the cache, and small real images."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# A shell that starts pytest in the background has it and all that it starts ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup, the commands would ignore a closed terminal; pytest itself still does.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `hpsearch run` does, before torch loads


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the user's cache and settings out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("XDG_RUNTIME_DIR", raising=False)
        patch.delenv("HPSEARCH_STORAGE", raising=False)
        patch.delenv("HPSEARCH_DATA", raising=False)
        yield


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The first 24 of each of the ten digits that scikit-learn ships: (240, 8, 8) uint8, (240,)."""
    from sklearn.datasets import load_digits

    shipped = load_digits()
    chosen = np.concatenate([np.flatnonzero(shipped.target == c)[:24] for c in range(10)])
    return (shipped.images[chosen] * 15).astype("uint8"), shipped.target[chosen].astype("int64")


@pytest.fixture(scope="session")
def digits_npz(digits: tuple[np.ndarray, np.ndarray], tmp_path_factory) -> Path:
    """The same as an ``.npz`` file."""
    path = tmp_path_factory.mktemp("images") / "digits.npz"
    np.savez(path, x_train=digits[0], y_train=digits[1])
    return path
