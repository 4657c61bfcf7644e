"""Storage URLs: parsed, completed by a password, and shown without their secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from hpsearch.errors import StorageError, mask_text

DEFAULT_URL = "sqlite:///hpsearch.db"
_FILE = "PGPASSWORD_FILE"
_EXPECTED = "sqlite:///FILE or postgresql://USER@HOST/DATABASE"
_SECRET_KEY = re.compile("pass|secret|key|token", re.IGNORECASE)
# Settings as libpq and other drivers take them, in a text without ://.
_WORDS = re.compile(
    r"(?:(?<=[\s?;])|^)(host|hostaddr|port|dbname|user|service|sslmode|\w*pass\w*)\s*=",
    re.IGNORECASE,
)
# A scheme with too few slashes, or user and password before a host.
_MISSPELT = re.compile(
    r"(?:sqlite|postgres(?:ql)?|mysql|mariadb)(?:\+\w+)?(?::|//)|\w[\w+.-]+:/|.*:.*@",
    re.IGNORECASE | re.DOTALL,
)


def named_or_default(text: str | None) -> str:
    """Returns the given database, else that of ``HPSEARCH_STORAGE``, else the default."""
    return text if text is not None else os.environ.get("HPSEARCH_STORAGE") or DEFAULT_URL


def typed_again(storage: str | None, *, masked: str) -> list[str]:
    """Returns the options that name the database in a suggested command.

    Empty if the default or the environment names it. ``masked`` is the URL without secrets.
    """
    if storage is None or storage == os.environ.get("HPSEARCH_STORAGE"):
        return []
    return ["--storage", storage if "://" not in storage else masked]


def parse_url(text: str) -> URL:
    """Parses a storage URL; any other text is the path of an SQLite file, taken literally.

    In both, a leading ``~`` is the home directory, unless a path with a ``~`` exists.

    Raises:
        StorageError: the URL cannot be parsed, names a database of an unsupported kind, or the
            text looks like a misspelt one, which may hold a password.
    """
    if "://" not in text:
        return _file_url(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Without the cause, which may quote a part of the password, and --verbose would show it.
        raise StorageError(
            f"the storage URL cannot be read; expected {_EXPECTED}; check its spelling"
        ) from None
    backend = url.get_backend_name()
    if backend == "postgres":
        url, backend = url.set(drivername="postgresql"), "postgresql"
    if backend not in ("sqlite", "postgresql"):
        raise StorageError(
            f"found a {backend!r} storage ({mask_text(text)}), expected {_EXPECTED}; name one of"
            " these"
        )
    if backend == "sqlite":
        return _with_file(url)
    if "@" in f"{url.host}{url.database}" and url.password is not None:
        raise StorageError(
            "found more than one @ in the storage URL, expected one, before the host; write %40"
            " for an @ of the password"
        )
    # With & for ?, or a space for one, a setting becomes part of a name that messages show.
    if _WORDS.search(f" {url.host} {url.database}".replace("&", " ")):
        raise StorageError(
            "found settings such as password= in the host or the database of the storage URL,"
            " expected postgresql://USER@HOST/DATABASE?SETTING=VALUE; begin them with a ?"
        )
    return url.set(drivername="postgresql+psycopg")


def _file_url(text: str) -> URL:
    """The URL of a path, in which %, ? and # have no meaning."""
    is_path = _is_path(text)
    if not is_path and (words := _WORDS.findall(text)):
        named = ", ".join(f"{word}=" for word in words)
        raise StorageError(
            f"found connection settings for a storage ({named}), expected {_EXPECTED}; write them"
            " as a URL, and a file with such a name as ./FILE"
        )
    if looks_like_url(text):
        raise StorageError(
            f"found the storage {mask_text(text)!r}, expected {_EXPECTED}; write a URL with ://,"
            " and a file with such a name as ./FILE"
        )
    return _with_file(URL.create("sqlite", database=text))


def looks_like_url(text: str) -> bool:
    """Whether a text is neither an existing path nor a name in an existing folder, but URL-like.

    It may hold a password: show it only through :func:`hpsearch.errors.mask_text`.
    """
    return _MISSPELT.match(text) is not None and not _is_path(text)


def _is_path(text: str) -> bool:
    folder = os.path.dirname(os.path.expanduser(text))
    return os.path.exists(text) or (folder != "" and os.path.isdir(folder))


def _with_file(url: URL) -> URL:
    """The URL of an SQLite file, with the home directory for a leading ``~``."""
    if url.host or url.username or url.database in (None, "", ":memory:"):
        raise StorageError(
            "found an SQLite storage without a file, expected sqlite:///FILE; name one"
        )
    if os.path.exists(url.database):
        return url
    # Shells expand neither --storage=~/a.db nor a value in a file of environment variables.
    return url.set(database=os.path.expanduser(url.database))


def mask(url: URL) -> str:
    """Returns the URL as text without the password and the secrets in its query.

    If the password holds an @, its rest was parsed as the host: hides all before the last @.
    """
    if url.get_backend_name() == "sqlite":
        return _masked_file(url)
    secret = {key: "***" for key in url.query if _SECRET_KEY.search(key)}
    shown = url.update_query_dict(secret) if secret else url
    if ":" in (shown.username or ""):  # typed as %3A, it does not begin a password
        shown = shown.set(username="***")
    text = shown.render_as_string(hide_password=True).replace("+psycopg://", "://")
    return re.sub(r":\*\*\*@[^?]*(?:@|%40)", ":***@", text.replace("%2A%2A%2A", "***"))


def _masked_file(url: URL) -> str:
    """The URL of an SQLite file, readable if it can be: quoted only if it would be read otherwise.

    A file that does not exist may be another database's URL, misspelt.
    """
    file = str(url.database)
    is_plain = not url.query and "?" not in file and unquote(file) == file
    text = f"sqlite:///{file}" if is_plain else url.render_as_string(hide_password=True)
    return text if os.path.exists(file) else mask_text(text)


def with_password(url: URL) -> URL:
    """Returns the URL with the password from the file that ``PGPASSWORD_FILE`` names.

    Unchanged without such a file, or if the URL or ``PGPASSWORD`` holds a password. This keeps a
    container's secret out of image layers, command lines and studies.

    Raises:
        StorageError: the file cannot be read.
    """
    path = os.environ.get(_FILE)
    known = url.password or url.query.get("password") or os.environ.get("PGPASSWORD")
    if known or not path:
        return url
    try:
        password = Path(os.path.expanduser(path)).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise StorageError(
            f"{_FILE}: cannot read {path} ({exc}); expected a file that holds the password and"
            " nothing else; let this user read it"
        ) from exc
    return url.update_query_dict({"password": password})  # the URL itself may name no user
