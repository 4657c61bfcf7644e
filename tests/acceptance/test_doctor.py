"""Findings of the doctor, on a sound machine and on a faulty one."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing

import psycopg
import pytest
from sqlalchemy.engine import make_url

from hpsearch.nn.runtime import cpu, device
from hpsearch.search.jobs import doctor
from hpsearch.search.storage.database_file import filesystem
from hpsearch.search.storage.storage import open_storage
from tests.integration.studies import dump
from tests.servers import own_s3, own_server


def found(result):
    return {finding["name"]: finding for finding in json.loads(result.out)}


def test_a_sound_place_is_found_sound_and_left_as_it_was(cli, tmp_path):
    result = cli("doctor", "--json")
    findings = found(result)
    assert result.code == 0
    assert {"python", "torch", "device", "bf16", "cores", "data", "cache"} <= set(findings)
    kind = filesystem(tmp_path)
    told = f"sqlite:///hpsearch.db on {kind} (created by the first run)"
    assert findings["storage"]["found"] == told
    assert findings["data"]["found"].startswith(f"data on {kind}, ")
    assert not [f for f in findings.values() if f["health"] == "bad"]
    assert list(tmp_path.iterdir()) == []


def test_a_database_is_looked_at_and_left_as_it_was(copied, cli):
    before = dump(copied.database)
    findings = found(cli("doctor", "--json"))
    assert findings["storage"]["found"].endswith(", 1 study, can be written")
    assert findings["latency"]["found"].endswith("ms a query")
    assert "hpsearch.db.artifacts" in findings["checkpoints"]["found"]
    assert dump(copied.database) == before


def test_a_fault_is_reported_with_its_remedy(cli, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    result = cli("doctor", "--storage", "/no/such/folder/x.db", "--data-dir", "file")
    assert result.code == 2
    assert "the folder /no/such/folder does not exist; create it" in result.out.replace("\n", " ")
    assert "unset it: spinning threads" in result.out.replace("\n", " ")
    assert "BAD" in result.out


def test_a_planted_link_is_reported_and_nothing_behind_it_is_touched(cli, tmp_path, monkeypatch):
    """Before, a link planted in the folder of temporary files had every file behind it deleted."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("precious")
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        place = tmp_path / name
        place.mkdir(mode=0o700)
        monkeypatch.setenv(name, str(place))
        (place / f"hpsearch-workers-{os.getuid()}").symlink_to(precious)
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("HPSEARCH_CACHE", str(cache))
    (cache / f"workers-{os.getuid()}").symlink_to(precious)

    result = cli("doctor", "--json")

    assert result.code == 0
    finding = found(result)["workers"]
    assert finding["health"] == "fair"
    assert "found a link, expected a folder that only you can write" in finding["found"]
    assert (precious / "thesis.tex").read_text() == "precious"


def test_a_database_of_another_version_is_bad(copied, cli):
    with closing(sqlite3.connect(copied.database)) as connection:
        connection.execute("UPDATE version_info SET schema_version = 1")
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
        connection.commit()
    result = cli("doctor", "--json")
    storage = found(result)["storage"]
    assert (result.code, storage["health"]) == (2, "bad")
    assert "cannot use sqlite:///hpsearch.db" in storage["found"]


@pytest.fixture(scope="module")
def server():
    """The URL of a server's empty database."""
    with own_server() as started:
        yield started.get_uri()


def role(server, name, *statements):
    """The URL by which a new role reaches the server's database, after these statements."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        for statement in statements:
            connection.execute(statement)
    return make_url(server).set(username=name).render_as_string(hide_password=False)


def test_a_role_that_cannot_make_or_write_tables_is_found_before_a_run_is(cli, server):
    url = role(server, "newcomer")
    result = cli("doctor", "--json", "--storage", url)
    assert result.code == 2
    assert "permission denied for schema public" in found(result)["storage"]["found"]
    assert found(cli("doctor", "--json", "--storage", server))["storage"]["health"] == "good"
    with psycopg.connect(server) as connection:
        assert connection.execute("SELECT count(*) FROM pg_stat_user_tables").fetchone() == (0,)

    storage = open_storage(server, create=True)
    result = cli("doctor", "--json", "--storage", server)
    assert result.code == 0
    assert found(result)["storage"]["found"].endswith(", 0 studies, can be written")
    assert storage.backend.get_all_studies() == []
    storage.close()

    url = role(server, "reader", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    result = cli("doctor", "--json", "--storage", url)
    storage = found(result)["storage"]
    assert (result.code, storage["health"]) == (2, "bad")
    assert "permission denied for table studies" in storage["found"]
    assert "GRANT ALL" in storage["advice"]

    result = cli("doctor", "--json", "--storage", url.replace("reader", "newcomer"))
    assert (result.code, found(result)["storage"]["health"]) == (2, "bad")


def test_a_bucket_is_tried(cli, monkeypatch):
    with own_s3(monkeypatch) as client:
        client.create_bucket(Bucket="there")
        result = cli("doctor", "--json", "--artifacts", "s3://there/a")
        checkpoints = found(result)["checkpoints"]
        assert (result.code, checkpoints["health"]) == (0, "good")
        assert checkpoints["found"] == "s3://there/a, can be written, read and removed"
        assert client.list_objects_v2(Bucket="there")["KeyCount"] == 0

        result = cli("doctor", "--json", "--artifacts", "s3://missing")
        checkpoints = found(result)["checkpoints"]
        assert (result.code, checkpoints["health"]) == (2, "bad")
        assert "NoSuchBucket" in checkpoints["found"]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    result = cli("doctor", "--json", "--artifacts", "s3://there")
    assert result.code == 2
    assert "Could not connect" in found(result)["checkpoints"]["found"]


def test_a_cache_over_the_network_is_warned_of(cli, monkeypatch):
    monkeypatch.setattr(doctor, "network_filesystem", lambda path: "nfs4")
    monkeypatch.setattr(doctor, "filesystem", lambda path: "nfs4")
    cache = found(cli("doctor", "--json"))["cache"]
    assert cache["health"] == "fair"
    assert " on nfs4, over the network, " in cache["found"]
    assert "HPSEARCH_CACHE" in cache["advice"]


@pytest.mark.parametrize("path", ["dev/nvidia0", "proc/driver/nvidia/version"])
def test_a_gpu_is_seen_by_its_files(tmp_path, path):
    assert not cpu.has_nvidia(root=tmp_path)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("")
    assert cpu.has_nvidia(root=tmp_path)


@pytest.mark.parametrize(
    ("cuda", "hidden", "said"),
    [(None, None, "without CUDA"), ("13.0", None, "CUDA 13.0"), (None, "", None)],
)
def test_a_gpu_that_torch_cannot_use_is_reported(cli, monkeypatch, cuda, hidden, said):
    monkeypatch.setattr(cpu, "has_nvidia", lambda: True)
    monkeypatch.setattr(device, "available", lambda: ("cpu",))
    monkeypatch.setattr(device, "cuda_version", lambda: cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    result = cli("doctor", "--json")
    gpu = found(result).get("gpu")
    assert result.code == 0
    assert (gpu is None) == (said is None)
    assert gpu is None or (gpu["health"] == "fair" and said in gpu["found"] and gpu["advice"])
