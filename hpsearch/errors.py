"""The errors that a user can mend; every room may raise them.

HpsearchError            anything a person can put right: one line, exit code 2
├── SpecError            a study file or an option holds a value that cannot be searched
├── DataError            images or labels are missing, damaged or unfit
├── ModelError           a model folder is missing, damaged or of a newer version
├── DeviceError          the device asked for is not there, or differs from the study's
├── StorageError         the database cannot be reached, read or written
│   ├── AwayError        it cannot be reached now, and may come back
│   └── NotMadeError     it has yet to be made: the first run or worker does that
└── StudyError           the study is unknown, changed, or cannot do what was asked

A message says what was found, what was expected and what to do, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HpsearchError(Exception):
    """The root of all errors that a user can mend."""


class SpecError(HpsearchError):
    """A study file or an option holds a value that cannot be searched."""


class DataError(HpsearchError):
    """Images or labels are missing, damaged or unfit for training."""


class ModelError(HpsearchError):
    """A model folder is missing, damaged, or of a newer version."""


class DeviceError(HpsearchError):
    """The device asked for is not there, or differs from the study's reference."""


class StorageError(HpsearchError):
    """The database cannot be reached, read or written."""


class AwayError(StorageError):
    """The database cannot be reached now, and may come back by itself."""


class NotMadeError(StorageError):
    """The database has yet to be made, as the first run or worker does."""


class StudyError(HpsearchError):
    """The study is unknown, has changed, or cannot do what was asked."""


def lost_database(error: Exception) -> str | None:
    """Returns that the database is lost and what its libraries say of it; None if they did not."""
    if not type(error).__module__.startswith(("sqlalchemy.", "optuna.exceptions")):
        return None
    said = str(getattr(error.__cause__ or error, "orig", None) or error)
    return f"lost the database: {said.strip().splitlines()[0]}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a hint that names the known words, the nearest one first.

    >>> nearest("emist-balanced", ["mnist", "emnist-balanced"])
    "did you mean 'emnist-balanced'? (known: emnist-balanced, mnist)"
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    listing = "known: " + ", ".join(names)
    return f"did you mean '{close[0]}'? ({listing})" if close else listing
