"""Where checkpoints lie: a folder beside the database, a shared folder, or S3."""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from optuna.artifacts import Boto3ArtifactStore, FileSystemArtifactStore
from optuna.artifacts._protocol import ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy.engine import URL

from hpsearch.errors import StorageError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """A store of files by key, read and written through Optuna's artifact stores.

    Never by ``upload_artifact``, whose rows in the database cannot be removed again.
    ``folder`` is None on S3. ``errors`` are what the store raises when it is full or away: a
    checkpoint that cannot be had costs time, never a trial, so they are told and no more.
    """

    store: ArtifactStore
    folder: Path | None
    errors: tuple[type[Exception], ...] = (OSError,)

    def save(self, key: str, content: bytes) -> None:
        """Writes a file whole: whoever reads it meanwhile gets the old one or the new one."""
        with self._tolerant(f"{key} is not kept"):
            self._save(key, content)

    @contextlib.contextmanager
    def _tolerant(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except self.errors as exc:
            _log.warning("the checkpoint %s: %s", consequence, exc)

    def _save(self, key: str, content: bytes) -> None:
        if self.folder is None:  # an S3 object appears when its upload is complete
            self.store.write(key, io.BytesIO(content))
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = f"{key}.{secrets.token_hex(8)}.part"  # two containers may share a pid
        self.store.write(draft, io.BytesIO(content))
        os.replace(self.folder / draft, self.folder / key)

    def read(self, key: str) -> bytes | None:
        """Returns a file's content; None if it is not there."""
        with self._tolerant(f"{key} cannot be read"):
            try:
                with self.store.open_reader(key) as file:
                    return file.read()
            except (ArtifactNotFound, FileNotFoundError):
                return None
        return None

    def remove(self, key: str) -> None:
        """Removes a file, if it is there, and what writers of it have left who were killed."""
        not_there = contextlib.suppress(ArtifactNotFound, FileNotFoundError)
        with self._tolerant(f"{key} is left where it is"):
            with not_there:
                self.store.remove(key)
            if self.folder is not None:
                for draft in self.folder.glob(f"{glob.escape(key)}.*.part"):
                    draft.unlink(missing_ok=True)


def open_artifacts(url: URL, place: str | None) -> Artifacts | None:
    """Returns where a study's checkpoints lie; None where there is no place for them.

    Args:
        url: the database.
        place: a folder that every worker sees, or ``s3://BUCKET/PREFIX``; None: beside an SQLite
            file (``<file>.artifacts``), and nowhere for PostgreSQL.

    Raises:
        StorageError: the place cannot be used.
    """
    if place is None:
        if url.get_backend_name() != "sqlite":
            return None
        place = f"{url.database}.artifacts"
    if place.startswith("s3://"):
        return _on_s3(place)
    folder = Path(place)
    try:
        usable = bool(place) and (
            not folder.exists() or (folder.is_dir() and os.access(folder, os.W_OK))
        )
    except OSError:  # its name is too long, or what lies above it is closed
        usable = False
    if not usable:
        raise StorageError(
            f"--artifacts: {place[:200]!r} is not a folder that can be written; mend it or name"
            " another"
        )
    return Artifacts(store=FileSystemArtifactStore(folder), folder=folder)


def _on_s3(place: str) -> Artifacts:
    match = re.fullmatch(r"s3://([^/]+)/?(.*)", place)
    if match is None:
        raise StorageError(
            f"--artifacts: found {place!r}, expected s3://BUCKET or s3://BUCKET/PREFIX"
        )
    try:
        from botocore.exceptions import BotoCoreError, ClientError

        store = cast(ArtifactStore, Boto3ArtifactStore(match[1]))
    except ImportError as exc:
        raise StorageError(
            f"--artifacts: {place} needs boto3, which is not installed; pip install 'hpsearch[s3]'"
        ) from exc
    prefixed, errors = _Prefixed(store, match[2].rstrip("/")), (BotoCoreError, ClientError)
    return Artifacts(store=prefixed, folder=None, errors=(OSError, *errors))


class _Prefixed:
    """A store whose keys all begin with a prefix."""

    def __init__(self, store: ArtifactStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def open_reader(self, artifact_id: str) -> BinaryIO:
        return self._store.open_reader(self._key(artifact_id))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(self._key(artifact_id), content_body)

    def remove(self, artifact_id: str) -> None:
        self._store.remove(self._key(artifact_id))

    def _key(self, artifact_id: str) -> str:
        return f"{self._prefix}/{artifact_id}".lstrip("/")
