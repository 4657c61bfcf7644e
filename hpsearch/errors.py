"""The errors that a user can fix; every room may raise them.

HpsearchError            the root: printed as one line, exit code 2
├── SpecError            a study file or an option holds a value that cannot be searched
├── DataError            images or labels are missing, damaged or unfit
├── ModelError           a model folder is missing, damaged or of a newer version
├── DeviceError          the requested device is missing, or differs from the study's
├── StorageError         the database cannot be reached, read or written
│   ├── AwayError        it cannot be reached now, but may come back
│   ├── NotMadeError     it does not exist yet: the first run or worker creates it
│   └── MovedError       its file was moved, removed or replaced while it was open
└── StudyError           the study is unknown, has changed, or cannot do what was asked

A message names the value found, the value expected and the remedy, in one line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Other names for known keys: usual abbreviations, and the names of command-line options.
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
    """The root of all errors that a user can fix; hides passwords in URLs of its message."""

    def __init__(self, message: str = "") -> None:
        super().__init__(mask_urls(message))


class SpecError(HpsearchError):
    """A study file or an option holds a value that cannot be searched."""


class DataError(HpsearchError):
    """Images or labels are missing, damaged or unfit for training."""


class ModelError(HpsearchError):
    """A model folder is missing, damaged, or of a newer version."""


class DeviceError(HpsearchError):
    """The requested device is missing, or differs from the study's reference."""


class StorageError(HpsearchError):
    """The database cannot be reached, read or written."""


class AwayError(StorageError):
    """The database cannot be reached now, but may come back by itself."""


class NotMadeError(StorageError):
    """The database does not exist yet; the first run or worker creates it."""


class MovedError(StorageError):
    """The file of the database was moved, removed or replaced while it was open."""


class StudyError(HpsearchError):
    """The study is unknown, has changed, or cannot do what was asked."""


_READ_ONLY = ("readonly database", "read-only transaction", "permission denied for")


def database_error(error: Exception) -> StorageError | None:
    """Returns the error for an exception of the database libraries; None for any other."""
    if not type(error).__module__.startswith(("sqlalchemy.", "optuna.exceptions")):
        return None
    cause = error.__cause__ or error
    driver_error = getattr(cause, "orig", None) or cause
    line = next(iter(str(driver_error).strip().splitlines()), repr(driver_error))
    if any(phrase in line for phrase in _READ_ONLY):
        return StorageError(
            f"the database cannot be written ({line}); fix its permissions and try again"
        )
    return StorageError(f"lost the connection to the database ({line}); fix it and try again")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raises exceptions of the database libraries as a :class:`StorageError`."""
    try:
        yield
    except HpsearchError:
        raise
    except Exception as exc:
        if (error := database_error(exc)) is None:
            raise
        raise error from exc


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "a text",
    "bool": "true or false",
    "tuple": "a list",
}
_LONGEST = 200  # characters of a value in a message
_DEEPEST = 32  # levels of lists and tables in a file
_BOUNDS = {"greater_than_equal": ("ge", "or more"), "less_than_equal": ("le", "or less")}


def expected_of(problem: Mapping[str, Any]) -> str:
    """Returns the value that one of pydantic's errors expected, in plain words.

    >>> expected_of({"type": "int_type", "input": "7", "msg": "Input should be a valid integer"})
    'a whole number without quotes'
    >>> expected_of({"type": "less_than_equal", "input": 3, "ctx": {"le": 2}})
    '2 or less'
    """
    if problem["type"] in _BOUNDS:
        bound, words = _BOUNDS[problem["type"]]
        return f"{problem['ctx'][bound]:g} {words}"
    kind, _, reason = str(problem["type"]).partition("_")
    if kind not in _KINDS or reason not in ("type", "parsing", "from_float"):
        return re.sub(r"^Input should be ", "", problem["msg"])
    value = problem["input"]
    # A number or true/false in quotes: the quotes are the mistake.
    is_quoted = isinstance(value, str) and re.fullmatch(r"[-+.\deE]*\d|true|false", value)
    return _KINDS[kind] + " without quotes" * (reason == "type" and bool(is_quoted))


def expect(ok: bool, key: str, found: object, expected: str) -> None:
    """Raises ValueError unless ``ok``: the key of a study file has the value ``found``."""
    if not ok:
        raise ValueError(f"{key}: found {shown(found)}, expected {expected}")


def shown(value: object) -> str:
    """Returns the value as a message shows it: on one line, cut after 200 characters.

    >>> shown("a\\n"), len(shown("x" * 1000))
    ("'a\\\\n'", 202)
    """
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def is_text(value: str) -> bool:
    """Whether a database and a terminal can hold the text: UTF-8 without NUL.

    Bytes of a command line that are not UTF-8 arrive as surrogates, which UTF-8 cannot encode.

    >>> is_text("größe"), is_text("\\udcff"), is_text("a\\0b")
    (True, False, False)
    """
    try:
        return "\0" not in value and value == value.encode().decode()
    except UnicodeError:
        return False


def expect_plain(key: str, value: object) -> None:
    """Raises ValueError if the value of the key, or one inside it, is one that JSON may lose.

    Those are lists and tables nested more than 32 deep, whole numbers beyond 64 bits, and texts
    that are not :func:`is_text`. Values of other types pass.
    """
    waiting = [(key, value, 0)]  # a list: recursion would fail on the values that are refused here
    while waiting:
        name, found, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(f"{key}: found values nested more than {_DEEPEST} deep; flatten them")
        if isinstance(found, str):
            expect(is_text(found), name, found, "text in UTF-8 without NUL")
        elif isinstance(found, int) and not -(2**63) <= found < 2**63:
            # not the number itself: Python refuses to print one of more than 4,300 digits
            bits = found.bit_length()
            raise ValueError(f"{name}: found a whole number of {bits} bits, expected at most 63")
        elif isinstance(found, Mapping):
            waiting += [(f"{name}.{str(inner)[:40]}", of, depth + 1) for inner, of in found.items()]
        elif isinstance(found, list | tuple):
            waiting += [(name, of, depth + 1) for of in found]


def expect_known(key: str, found: str, known: Iterable[str]) -> None:
    """Raises ValueError with a hint unless the value of the key is one of the known ones."""
    if found not in known:
        raise ValueError(f"{key}: found {shown(found)}; {nearest(found, known)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a hint that lists the known names, and suggests the nearest one.

    >>> nearest("emist-balanced", ["mnist", "emnist-balanced"])
    "did you mean 'emnist-balanced'? (known: emnist-balanced, mnist)"
    >>> nearest("lr", ["learning_rate", "width_1", "width_2", "width_3"])
    "did you mean 'learning_rate'? (known: learning_rate, width_1 …)"
    """
    names = sorted(known)
    close, listing = closest(word, names), "known: " + ", ".join(_abridged(names))
    return listing if close is None else f"did you mean '{close}'? ({listing})"


def closest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """Returns the known name nearest to the word, by alias or by spelling; None if none is near.

    >>> closest("wd", ["width", "weight_decay"]), closest("adem", ["sgd", "adam"]), closest("x", [])
    ('weight_decay', 'adam', None)
    """
    names = list(known)
    if ALIASES.get(word) in names:
        return ALIASES[word]
    return next(iter(difflib.get_close_matches(word, names, n=1, cutoff=cutoff)), None)


def _abridged(names: list[str]) -> list[str]:
    """The names, with a numbered series (width_1, width_2, width_3) shortened to its first."""
    shown = []
    for name in names:
        stem, _, number = name.rpartition("_")
        is_series = number.isdecimal() and f"{stem}_1" in names and f"{stem}_2" in names
        if not is_series:
            shown.append(name)
        elif number == "1":
            shown.append(f"{name} …")
    return shown


def plural(number: int, noun: str, *, thousands: str = "") -> str:
    """Returns the number and the noun, with an s unless the number is 1.

    ``thousands`` is the thousands separator, "," or "".

    >>> plural(1, "trial"), plural(0, "fresh seed"), plural(4000, "trial", thousands=",")
    ('1 trial', '0 fresh seeds', '4,000 trials')
    """
    return f"{number:{thousands}} {noun}{'s' * (number != 1)}"


_ADDRESS = re.compile(r"(\w[\w+.-]*:/+|)([^:]*):.*", re.DOTALL)
_SECRET = re.compile(r"(\w*(?:pas+w|pwd|passphrase|secret|key|token)\w*\s*=)[^&]*", re.IGNORECASE)
_NO_ADDRESS = re.compile(r"postgres\w*:(?!//)[^:@]*:", re.IGNORECASE)
_PASSWORD = re.compile(r"(\w[\w+.-]*:/+[^\s:/@'\"]*):[^\s'\"]*@")  # of a URL in a message


def mask_urls(message: str) -> str:
    """Returns a message without the passwords of the URLs in it.

    >>> mask_urls("found no study 'postgresql://ann:hush@db/x'; run one")
    "found no study 'postgresql://ann:***@db/x'; run one"
    """
    return _PASSWORD.sub(r"\1:***@", message)


def mask_text(text: str) -> str:
    """Returns a place that a user typed, and that may not be understood, without its passwords.

    Hides more rather than less: all between the first colon and the last @, and the rest of a text
    after a word such as ``password=`` up to the next &.

    >>> mask_text("postgresql:/ann:hush@db/x"), mask_text("ann:hu@x/sh@db"), mask_text("runs/a.db")
    ('postgresql:/ann:***@db/x', 'ann:***@db', 'runs/a.db')
    >>> mask_text("mysql://db/x?ssl_key=hush&a=b"), mask_text("host=db password = 'hu;sh'")
    ('mysql://db/x?ssl_key=***&a=b', 'host=db password =***')
    >>> mask_text("postgresql:ann:hush/x"), mask_text("mysql://db/x?pwd=hush")
    ('postgresql:***', 'mysql://db/x?pwd=***')
    """
    text = _SECRET.sub(r"\1***", text)
    if "@" not in text and _NO_ADDRESS.match(text):
        return _ADDRESS.sub(r"\1\2:***", text, count=1)
    before, at, after = text.rpartition("@")
    return _ADDRESS.sub(r"\1\2:***", before, count=1) + at + after
