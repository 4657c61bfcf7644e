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
from collections.abc import Iterable, Mapping

# What others call it: the field's abbreviations, and the words of this program's own options.
ALIASES: Mapping[str, str] = {
    "batch": "batch_size",
    "batchnorm": "batch_norm",
    "blocks": "n_blocks",
    "bn": "batch_norm",
    "bs": "batch_size",
    "depth": "n_blocks",
    "kernel": "kernel_size",
    "lr": "learning_rate",
    "n_epochs": "epochs",
    "n_layers": "n_blocks",
    "n_trials": "trials",
    "num_blocks": "n_blocks",
    "num_epochs": "epochs",
    "num_layers": "n_blocks",
    "num_trials": "trials",
    "optim": "optimizer",
    "scheduler": "schedule",
    "study": "name",
    "wd": "weight_decay",
}


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


_READ_ONLY = ("readonly database", "read-only transaction", "permission denied for")


def lost_database(error: Exception) -> str | None:
    """Returns what became of the database and what to mend; None if its libraries did not raise it.

    It is lost, or only not to be written.
    """
    if not type(error).__module__.startswith(("sqlalchemy.", "optuna.exceptions")):
        return None
    cause = error.__cause__ or error
    said = getattr(cause, "orig", None) or cause
    line = next(iter(str(said).strip().splitlines()), repr(said))
    if any(word in line for word in _READ_ONLY):
        return f"the database cannot be written ({line}); mend its permissions"
    return f"lost the database: {line}; mend it"


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a hint that names the known words, the nearest one first.

    >>> nearest("emist-balanced", ["mnist", "emnist-balanced"])
    "did you mean 'emnist-balanced'? (known: emnist-balanced, mnist)"
    >>> nearest("lr", ["learning_rate", "width_1", "width_2", "width_3"])
    "did you mean 'learning_rate'? (known: learning_rate, width_1 …)"
    """
    names = sorted(known)
    close, listing = closest(word, names), "known: " + ", ".join(_without_counting(names))
    return listing if close is None else f"did you mean '{close}'? ({listing})"


def closest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """Returns the known word that is meant, by its usual other name or its letters; None if none.

    >>> closest("wd", ["width", "weight_decay"]), closest("adem", ["sgd", "adam"]), closest("x", [])
    ('weight_decay', 'adam', None)
    """
    names = list(known)
    if ALIASES.get(word) in names:
        return ALIASES[word]
    return next(iter(difflib.get_close_matches(word, names, n=1, cutoff=cutoff)), None)


def _without_counting(names: list[str]) -> list[str]:
    """The names, of those that only count on (width_1, width_2, width_3) the first alone."""
    told = []
    for name in names:
        stem, _, number = name.rpartition("_")
        is_counted = number.isdecimal() and f"{stem}_1" in names and f"{stem}_2" in names
        if not is_counted:
            told.append(name)
        elif number == "1":
            told.append(f"{name} …")
    return told
