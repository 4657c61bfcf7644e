"""What the doctor finds, on a sound machine and on one with something to mend."""

from __future__ import annotations

import json


def found(result):
    return {finding["name"]: finding for finding in json.loads(result.out)}


def test_a_sound_place_is_found_sound_and_left_as_it_was(cli, tmp_path):
    result = cli("doctor", "--json")
    findings = found(result)
    assert result.code == 0
    assert {"python", "torch", "device", "bf16", "cores", "data", "cache"} <= set(findings)
    assert findings["storage"]["found"] == "sqlite:///hpsearch.db (made by the first run)"
    assert not [f for f in findings.values() if f["health"] == "bad"]
    assert list(tmp_path.iterdir()) == []


def test_a_database_is_looked_at(copied, cli):
    findings = found(cli("doctor", "--json"))
    assert findings["storage"]["found"].endswith("hpsearch.db, 1 study")
    assert findings["latency"]["found"].endswith("ms a question")
    assert "hpsearch.db.artifacts" in findings["checkpoints"]["found"]


def test_what_is_broken_is_said_with_what_to_do(cli, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    result = cli("doctor", "--storage", "/no/such/folder/x.db", "--data-dir", "file")
    assert result.code == 2
    assert "the folder /no/such/folder is not there; make it" in result.out.replace("\n", " ")
    assert "unset it: threads that spin" in result.out
    assert "BAD" in result.out
