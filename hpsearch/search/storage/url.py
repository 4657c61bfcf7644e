"""Storage URLs: parsed, completed by a password, and shown without their secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from hpsearch.errors import StorageError

DEFAULT_URL = "sqlite:///hpsearch.db"
_FILE = "PGPASSWORD_FILE"


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
    """Parses a storage URL; a bare path means an SQLite file.

    Raises:
        StorageError: the URL cannot be parsed, or names a database of an unsupported kind.
    """
    if "://" not in text:
        if re.search(r"password\s*=", text, re.IGNORECASE):
            raise StorageError(
                "found words with a password for a storage, expected sqlite:///FILE or"
                " postgresql://USER@HOST/DATABASE; write them as a URL"
            )
        text = f"sqlite:///{text}"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as exc:
        raise StorageError(
            "the storage URL cannot be read; expected sqlite:///FILE or"
            " postgresql://USER@HOST/DATABASE; check its spelling"
        ) from exc
    backend = url.get_backend_name()
    if backend == "postgres":
        url, backend = url.set(drivername="postgresql"), "postgresql"
    if backend not in ("sqlite", "postgresql"):
        raise StorageError(
            f"found a {backend!r} storage ({mask(url)}), expected sqlite:///FILE or"
            " postgresql://USER@HOST/DATABASE"
        )
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise StorageError(
            "found an SQLite storage without a file, expected sqlite:///FILE; name one"
        )
    if backend == "sqlite":
        return url
    if "@" in f"{url.host}{url.database}" and url.password is not None:
        raise StorageError(
            "found more than one @ in the storage URL, expected one, before the host; write %40"
            " for an @ of the password"
        )
    return url.set(drivername="postgresql+psycopg")


def mask(url: URL) -> str:
    """Returns the URL as text without the password and the secrets in its query.

    If the password holds an @, its rest was parsed as the host: hides all before the last @.
    """
    secret = {key: "***" for key in url.query if "pass" in key.lower() or "key" in key.lower()}
    shown = url.update_query_dict(secret) if secret else url
    text = shown.render_as_string(hide_password=True).replace("+psycopg://", "://")
    return re.sub(r":\*\*\*@[^?]*(?:@|%40)", ":***@", text)


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
        password = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise StorageError(
            f"{_FILE}: cannot read {path} ({exc}); expected a file that holds the password and"
            " nothing else; let this user read it"
        ) from exc
    return url.update_query_dict({"password": password})  # the URL itself may name no user
