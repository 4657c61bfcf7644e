"""Two searches that trained for real, side by side, for people and for programs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.acceptance.conftest import assert_one_line
from tests.integration.studies import dump


@pytest.fixture
def two(copied, cli):
    """The database of two studies of three trials: ``small`` by tpe, ``flipped`` at random."""
    text = copied.study_file.read_text().replace("epochs = 2", "epochs = 2\nflip = true")
    copied.study_file.write_text(text)
    searched = cli(
        "run", copied.study_file, "--study", "flipped", "--sampler", "random", "--threads", 1
    )
    assert searched.code == 0, searched.err
    return copied.database


def test_the_table_shows_the_differences_and_the_leader(two, cli):
    before = dump(two)

    told = cli("compare", "small", "flipped")

    assert (told.code, told.err) == (0, "")
    lines = {line[:24].strip(): line[24:].split() for line in told.out.splitlines()}
    assert lines["train.flip"] == ["false", "true"]
    assert lines["search.sampler"] == ["tpe", "random"]
    assert lines["trials"] == ["3", "3"]
    words = " ".join(told.out.split())
    assert " of training each, " in words
    assert "The joint front of all trials holds" in words
    assert "The best accurac" in words
    assert "Each study is a single search" in words
    assert "Only small began with 5 trials" in words
    found = cli("compare", "small", "flipped", "--json").json
    assert lines["hypervolume"] == [f"{one['hypervolume']:.4f}" for one in found["studies"]]
    assert f"each, {found['ranking'][0]} (" in words
    assert dump(two) == before


def test_the_json_agrees_with_the_status_and_report_of_each_study(two, cli):
    result = cli("compare", "flipped", "small", "--json")

    assert (result.code, result.err) == (0, "")
    found = result.json
    assert [one["study"] for one in found["studies"]] == ["flipped", "small"]
    assert sorted(found["ranking"]) == ["flipped", "small"]
    assert found["differences"] == {
        "train.flip": [True, False],
        "search.sampler": ["random", "tpe"],
    }
    own = {
        name: cli("report", "--study", name, "--format", "json").json for name in found["ranking"]
    }
    for one in found["studies"]:
        status = cli("status", "--study", one["study"], "--json").json
        counted = {state: one["counts"][state] for state in ("complete", "pruned", "failed")}
        assert counted == {state: status[state] for state in counted}
        assert len(one["front"]["trials"]) == status["front_size"]
        knee = own[one["study"]]["answer"]["knee"]
        assert (one["front"]["knee"]["number"], one["seconds"]) == (
            knee["number"],
            own[one["study"]]["attainment"][-1]["seconds"],
        )
    assert found["seconds"] == min(one["seconds"] for one in found["studies"])


def test_it_is_written_as_a_page_too(two, cli):
    told = cli("compare", "small", "flipped", "-o", "c.html", "--json")

    assert (told.code, told.err) == (0, "wrote c.html\n")
    page = (two.parent / "c.html").read_text(encoding="utf-8")
    assert f"each, {told.json['ranking'][0]} (" in page
    assert "plotly" in page
    assert_one_line(cli("compare", "small", "flipped", "-o", "no/c.html"), "cannot write no/c.html")
    for name in ("c.json", "-"):
        refused = cli("compare", "small", "flipped", "-o", name)
        assert_one_line(
            refused, f"-o: found '{name}', expected a name that ends in .html", "--json"
        )
    assert [path.name for path in two.parent.glob("*c.*")] == ["c.html"]


def test_it_loads_no_torch(two, tmp_path):
    script = """
import sys
from hpsearch.cli.main import main
try:
    main(["compare", "small", "flipped"])
except SystemExit as exc:
    assert exc.code == 0, exc.code
loaded = sorted({"torch", "torchvision", "sklearn", "plotly"} & set(sys.modules))
assert not loaded, loaded
"""
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )

    assert process.returncode == 0, process.stderr
