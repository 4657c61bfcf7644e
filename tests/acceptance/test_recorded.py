"""What programs and users rely on, held against files in ``recorded/``.

Help texts, JSON, reports, exit codes, error lines and database keys. After a change that is meant,
record again and read the difference that git shows:

    HPSEARCH_RECORD=1 python -m pytest tests/acceptance/test_recorded.py

``pytest -vv`` shows a difference whole.
Exit code 130 after Ctrl-C is in test_interruption.py, test_confirm.py, test_train_and_predict.py
and test_workers.py.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer

from hpsearch.cli.main import app
from tests.acceptance.fixed_study import write_database

RECORDED = Path(__file__).parent / "recorded"
ROOT = typer.main.get_command(app)
COMMANDS = sorted(ROOT.commands)

STUDY_FILE = """
name = "tiny"

[data]
dataset = "digits"

[train]
epochs = 2

[search]
trials = 3

[space]
n_blocks = { low = 1, high = 2 }
base_width = { low = 4, high = 8 }
optimizer = "adam"
batch_size = 64
"""

# Every command that has --json, and how it is called; "values" on the fixed study, "keys" where
# training or the machine decides the values: those of the tiny run.
WITH_VALUES = {
    "list": ["list --json"],
    "status": ["status --json", "status plain --json"],
    "show": [f"show {number} --json" for number in (2, 13, 14, 16, 17, 18, 19)],
    "front": ["front --json"],
    "compare": ["compare fixed plain --json"],
    "confirm": ["confirm --seeds 2 --json"],
}
WITH_KEYS = {
    "status": "status --json",
    "show": "show 0 --json",
    "confirm": "confirm --trial 0 --seeds 1 --json",
    "train": "train --trial 2 --epochs 30 -o model --device cpu --threads 1 --json",
    "predict": "predict model images.npz --device cpu --threads 1 --json",
    "doctor": "doctor --json",
}
FOR_PEOPLE = [
    "list",
    "status",
    "show 2",
    "show 14",
    "front",
    "compare fixed plain",
    "confirm --seeds 2",
    "check study.toml",
]


def expect(name: str, found: str) -> None:
    """Compares the text with the record of that name, or records it."""
    path = RECORDED / name
    if os.environ.get("HPSEARCH_RECORD"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert path.is_file(), f"{name} is not recorded yet; HPSEARCH_RECORD=1 records it"
    assert found == path.read_text(encoding="utf-8")


def normalized(text: str, folder: Path) -> str:
    """Takes out what differs between machines: folder, minute, Python's words, a float's end."""
    text = text.replace(str(folder), "FOLDER")
    text = re.sub(r"(found invalid TOML) \(.*\);", r"\1 (WHY);", text)
    text = re.sub(
        r"\d{4}-\d\d-\d\d \d\d:\d\d UTC by hpsearch \S+", "TIME by hpsearch VERSION", text
    )
    return re.sub(r"(?<![\w.:-])-?\d+\.\d+(e[-+]?\d+)?(?![\w.:])", _short, text)


def _short(match: re.Match[str]) -> str:
    """A float with six digits, where it has more; Markdown and tables have fewer."""
    return match[0] if len(match[0]) < 9 else repr(float(f"{round(float(match[0]), 9):.6g}"))


def sections(told: dict[str, str]) -> str:
    """One text of several, each under its name."""
    return "".join(f"$ hpsearch {name}\n{text.rstrip()}\n\n" for name, text in told.items())


def kinds(value: Any, path: str = "") -> dict[str, set[str]]:
    """The JSON types at each path below a value; elements of a list share one path."""
    found: dict[str, set[str]] = {}
    below: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        below = [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
    elif isinstance(value, list):
        below = [(f"{path}[]", item) for item in value]
    found.setdefault(path, set()).add("null" if value is None else type(value).__name__)
    for where, item in below:
        for deeper, names in kinds(item, where).items():
            found.setdefault(deeper, set()).update(names)
    return found


def keys(value: Any) -> str:
    """A line per path, sorted: the path and the types that stand there."""
    lines = [f"{path or '.'}: {'|'.join(sorted(t))}" for path, t in kinds(value).items()]
    return "\n".join(sorted(lines)) + "\n"


@pytest.fixture(scope="module", autouse=True)
def _same_everywhere() -> Iterator[None]:
    """UTC, and none of the user's settings for hpsearch or for terminals."""
    settings = {name for name in os.environ if name.startswith("HPSEARCH_")}
    settings |= {"FORCE_COLOR", "NO_COLOR", "LINES", "TERMINAL_WIDTH"}
    with pytest.MonkeyPatch.context() as patch:
        for name in settings - {"HPSEARCH_CACHE", "HPSEARCH_RECORD"}:
            patch.delenv(name, raising=False)
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture(scope="module")
def typed(_same_everywhere: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of the studies typed by hand."""
    path = tmp_path_factory.mktemp("typed") / "hpsearch.db"
    write_database(path)
    return path


@pytest.fixture
def fixed(typed: Path, tmp_path: Path) -> Path:
    """A copy of it in the test's folder, beside a study file; returns the folder."""
    shutil.copy(typed, tmp_path / "hpsearch.db")
    (tmp_path / "study.toml").write_text(STUDY_FILE)
    return tmp_path


def test_the_help_of_every_command_is_as_recorded(cli):
    told = {name: cli(*name.split()).out for name in ("--help", *(f"{c} --help" for c in COMMANDS))}

    expect("help.txt", sections(told))


def test_every_command_with_json_is_recorded():
    with_json = {
        name for name in COMMANDS for p in ROOT.commands[name].params if "--json" in p.opts
    }

    assert with_json == {*WITH_VALUES, *WITH_KEYS}


@pytest.mark.parametrize("name", WITH_VALUES)
def test_the_json_of_a_reading_command_is_as_recorded(name, fixed, cli):
    told = {}
    for line in WITH_VALUES[name]:
        result = cli(*line.split())
        assert result.code == 0, result.err
        told[line] = json.dumps(result.json, indent=1, ensure_ascii=False)

    expect(f"{name}.json.txt", normalized(sections(told), fixed))


def test_what_commands_print_for_people_is_as_recorded(fixed, cli):
    told = {}
    for line in FOR_PEOPLE:
        result = cli(*line.split())
        told[line] = f"{result.out.rstrip()}\n--- stderr, exit {result.code}\n{result.err}"

    expect("terminal.txt", normalized(sections(told), fixed))


@pytest.mark.parametrize("kind", ["md", "json"])
@pytest.mark.parametrize("study", ["fixed", "plain"])
def test_a_report_is_as_recorded(study, kind, fixed, cli):
    result = cli("report", study, "--format", kind)
    assert (result.code, result.err) == (0, "")

    expect(f"report-{study}.{kind}", normalized(result.out, fixed))


def test_the_exported_tables_have_the_recorded_columns(fixed, cli):
    import pyarrow.parquet

    assert cli("export", "fixed", "-o", "tables").code == 0

    told = []
    for path in sorted((fixed / "tables").iterdir()):
        told.append(f"{path.name}:")
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                told += next(csv.reader(file))
        elif path.suffix == ".parquet":
            schema = pyarrow.parquet.read_schema(path)
            told += [f"{column.name} {column.type}" for column in schema]
        else:
            told.append(path.read_text(encoding="utf-8"))
        told.append("")
    expect("export.txt", "\n".join(told))


def test_a_real_run_leaves_the_recorded_keys(tmp_path, cli, digits):
    """Keys and types in the database, and in the JSON that depends on training or the machine."""
    import numpy as np

    (tmp_path / "study.toml").write_text(STUDY_FILE)
    np.savez(tmp_path / "images.npz", x_test=digits[0][:3], y_test=digits[1][:3])
    run = cli("run", "study.toml", "--device", "cpu", "--threads", 1)
    assert run.code == 0, run.err
    told = {}
    for line in WITH_KEYS.values():
        result = cli(*line.split())
        assert result.code == 0, result.err
        told[line] = keys(result.json)

    expect("json_keys.txt", sections(told))
    expect("database_keys.txt", database_keys(tmp_path / "hpsearch.db"))


def database_keys(database: Path) -> str:
    """Every attribute of studies and trials in the database, by table, with the types inside."""
    told = []
    with closing(sqlite3.connect(database)) as connection:
        for table in (
            *("study_user_attributes", "study_system_attributes"),
            *("trial_user_attributes", "trial_system_attributes"),
        ):
            rows = connection.execute(f"SELECT key, value_json FROM {table}")
            values = [{re.sub(r":\d+", ":N", key): _decoded(text)} for key, text in rows]
            told.append(f"{table}\n{keys(values)}")
        told.append("trial_params")
        named = connection.execute("SELECT DISTINCT param_name FROM trial_params ORDER BY 1")
        told += [name for (name,) in named]
    return "\n".join(told) + "\n"


def _decoded(text: str) -> Any:
    """A value of the database; the spec is JSON in a JSON string."""
    value = json.loads(text)
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


# Each line is run on a fresh copy of the fixed database.
COMMAND_LINES = """
--help
--version
list
status
show 0
front
front plain --json
compare fixed plain
confirm --seeds 2
check study.toml
report -o r.html
report -o r.md
export -o tables
enqueue fixed --set n_blocks=2
stop --study fixed
delete plain --yes

rnu
run --trails 3
run --trials 0
run --trials many
run nothere.toml
run bad.toml
run wrong.toml
run study.toml --sampler tpee
run study.toml --pruner forcast
run study.toml --objectives acuracy
run study.toml --objectives accuracy,accuracy
run study.toml --timeout soon
run study.toml --threads 0
run study.toml --seed -1
run study.toml --artifacts /dev/null/here
run --dataset mnits5k
run --dataset bad.npz
run --storage mysql://u:secret@h/x
run --storage postgresql://u:secret@h:port/x
run --storage no/x.db
submit study.toml --study fixed
check bad.toml
check wrong.toml
worker --storage none.db
submit nothere.toml
enqueue --set n_blocks=1
enqueue fixed
enqueue fixed --set n_blocks
enqueue fixed --set n_blocks=9
enqueue fixed --set blocks=1
enqueue fixed --set optimizer=adma
enqueue fixed --set head=flatten
stop --study fixd
delete --yes
delete fixd --yes
dashboard --port 70000
dashboard --storage none.db
list --storage none.db
list --storage bad.npz
status fixd
status fixed --study plain
show
show 99
show best
front fixd --json
compare fixed
compare fixed fixd
report --format pdf
report -o r.pdf
report -o no/r.html
watch --storage none.db
doctor --no-such-option
rerun 99
rerun 14 --dataset=
rerun 18
rerun 19
confirm --trial 99
confirm --trial 14
confirm --seeds 0
train
train -o m
train -o m --trial 14
train -o m --knee --trial 0
train -o m --best speed
train -o m --within-seconds -1
train -o m --within-seconds 0.25
train -o m --within-params 1
train -o m --set n_blocks
train -o m --set n_blocks=1 --epochs 0
train -o m --set n_blocks=1 --seed -4
predict nothere a.png
predict .
export
export -o tables --study fixd
export -o study.toml
"""


def test_exit_codes_and_error_lines_are_as_recorded(fixed, typed, cli):
    (fixed / "bad.toml").write_text("[search\n")
    (fixed / "wrong.toml").write_text("[search]\ntrails = 3\n")
    (fixed / "bad.npz").write_bytes(b"hello")
    told = []
    for line in filter(None, COMMAND_LINES.splitlines()):
        for old in fixed.glob("hpsearch.db*"):  # with SQLite's files beside it
            old.unlink()
        shutil.copy(typed, fixed / "hpsearch.db")
        result = cli(*shlex.split(line))
        told.append(f"{result.code}  {line}")
        if result.code:
            assert (result.code, result.out) == (2, ""), line
            told += [f"   {said}" for said in result.err.splitlines()]

    expect("exit_codes.txt", normalized("\n".join(told) + "\n", fixed))
