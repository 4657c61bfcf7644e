"""The database's password from a file, as images of servers take theirs."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import URL

from hpsearch.errors import StorageError

_WORD = "PGPASSWORD"
_FILE = "PGPASSWORD_FILE"


def with_password(url: URL) -> URL:
    """Returns the URL with the password in the file that ``PGPASSWORD_FILE`` names.

    As it is where that names none, or the URL or ``PGPASSWORD`` tells it. So a container's secret
    is in no layer, no command line and no study, and whatever is started there finds it.

    Raises:
        StorageError: the file cannot be read.
    """
    path = os.environ.get(_FILE)
    told = url.password or url.query.get("password") or os.environ.get(_WORD)
    if told or not path:
        return url
    try:
        password = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise StorageError(
            f"{_FILE}: cannot read {path} ({exc}); expected a file that holds the password and"
            " nothing else; let this user read it"
        ) from exc
    return url.update_query_dict({"password": password})  # the URL itself may name no user
