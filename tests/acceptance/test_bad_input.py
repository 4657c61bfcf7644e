"""Wrong input: one line that helps, exit code 2, and nothing written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing

import numpy as np
import pytest

from tests.acceptance.conftest import assert_one_line
from tests.integration.studies import dump

STUDY_FILES = {
    "not TOML": ("[search\n", "study.toml: found invalid TOML", "line 1", "fix that line"),
    "unknown key": ("[search]\ntrails = 3", "search.trails", "unknown", "did you mean 'trials'?"),
    "unknown dimension": ("[space]\nn_block = 3", "space.n_block", "did you mean 'n_blocks'?"),
    "unknown dataset": ('[data]\ndataset = "emnist-balance"', "did you mean 'emnist-balanced'?"),
    "half out of sight": (
        "[train]\nshift = 14",
        "train.shift: found 14 on images of 28×28 pixels, expected at most 13, less than half",
    ),
    "deep nesting": ("a = " + "[" * 3000, "study.toml: found lists or tables nested too deep"),
    "deep dots": (f"search.{'.'.join('a' * 3000)} = 1", "search: found values nested more than 32"),
    "too many digits": (
        f"[search]\ntrials = {'9' * 5000}",
        "whole number of more than 4,300 digits",
    ),
    "a huge number": (
        f"[search]\nseed = 0x{'f' * 5000}",
        "search.seed: found a whole number of 20",
    ),
    "not a number": ("[train]\nlabel_smoothing = nan", "train.label_smoothing: found nan"),
    "NUL in the name": ('name = "a\\u0000b"', r"name: found 'a\x00b', expected text in UTF-8"),
    "a long value": (f'[data]\nval_fraction = "{"x" * 9000}"', f"found '{'x' * 199} …, expected"),
    "an enormous file": ("# " + "x" * 70_000, "(larger than 65,536 bytes)"),
    "not a duration": ('[search]\ntimeout = "soon"', "timeout: found 'soon'", "30m or 1h30m"),
}


@pytest.mark.parametrize("case", STUDY_FILES)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_study_file_that_cannot_be_searched_is_refused(case, command, cli, tmp_path):
    text, *words = STUDY_FILES[case]
    (tmp_path / "study.toml").write_text(text)

    assert_one_line(cli(command, "study.toml"), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


OPTIONS = {
    "trials as a real": (
        "run --trials 1e3",
        "found '1e3'",
        "whole number",
        "`hpsearch run --help`",
    ),
    "argument too many": ("run a.toml b.toml", "unexpected extra argument", "b.toml"),
    "an .npz file for a study file": ("run own.npz", ".npz file", "--dataset own.npz"),
    "a data set for a study file": ("run mnist5k", "name of a data set", "--dataset mnist5k"),
    "no such device": ("run --device cuda:99", "device: found 'cuda:99'", "cpu", "choose"),
    "no kind of device": ("run --device gpu", "device: found 'gpu'", "auto, cpu, cuda"),
    "no workers": ("run --workers 0", "search.workers: found 0, expected 1 or more"),
    "a share of a GPU above one": ("run --gpus-per-worker 2", "found '2', expected 1 or less"),
    "a worker without a database": ("worker", "no database at", "--storage"),
    "nothing to watch": ("watch", "no database at", "--storage"),
    "artifacts in a file": ("run --artifacts /dev/null", "is not a folder that can be written"),
    "no duration": ("run --timeout 5x", "timeout: found '5x'", "30m or 1h30m"),
    "no time": ("run --timeout 0", "search.timeout: found 0.0, expected more than 0 seconds"),
    "image size out of range": (
        "run --image-size 4",
        "data.image_size: found 4, expected 8 to 512",
    ),
    "image size of a fixed set": ("run --image-size 32", "'mnist5k'", "omit it"),
    "no database": ("list", "no database at sqlite:///hpsearch.db", "hpsearch run", "--storage"),
    "no database either": ("front --json --storage x.db", "no database at sqlite:///x.db"),
    "no folder for it": ("run --storage no/x.db", "the folder no does not exist; create it"),
    "a folder": ("run --storage .", "found a folder", "expected an SQLite file"),
    "nothing for a storage": ("run --storage=", "without a file", "sqlite:///FILE", "name one"),
    "nothing for artifacts": ("run --artifacts=", "'' is not a folder that can be written"),
    "nothing for the data": ("train -o m --dataset=", "data.dataset: found '', expected a name"),
    "a name too long": (f"list --storage {'x' * 5000}", "cannot be accessed", "too long"),
    "artifacts too long": (f"run --artifacts {'x' * 5000}", "is not a folder", "name another"),
    "a model's name too long": (f"predict {'x' * 5000} a.png", "no such folder", "check the path"),
    "too many trainings": (
        f"train --set n_blocks=1 -o m --seeds {10**30}",
        "seeds: found 1000000000000000000000000000000, expected 1 to 1000",
    ),
    "no training": ("train --knee -o m --seeds 0", "'--seeds'", "expected 1 or more"),
    "no number of parameters": (
        "train -o m --within-params nan",
        "'--within-params'",
        "expected 0 or more",
    ),
    "a shift out of sight": (
        "train --dataset digits --set shift=4 -o m",
        "train.shift: found 4 on images of 8×8 pixels, expected at most 3",
    ),
    "a value without a name": ("train --set =3 -o m", "--set: found '=3', expected NAME=VALUE"),
    "a mistyped URL": (
        "list --storage postgresql:/ann:secret@db/x",
        "found the storage 'postgresql:/ann:***@db/x', expected sqlite:///FILE or postgresql://",
    ),
    "a URL without its scheme": ("worker --forever --storage ann:secret@db/x", "'ann:***@db/x'"),
    "another kind of server": ("dashboard --storage mysql://ann:secret@db/x", "ann:***@db/x"),
    "a URL as a study file": ("check postgresql://ann:secret@db/x", "postgresql:/ann:***@db/x"),
    "a URL as a model": ("predict mysql://ann:secret@db/x a.png", "mysql:/ann:***@db/x"),
    "settings for a URL": (
        "submit --storage host=db,user=ann,password=secret",
        "found connection settings for a storage (host=",
    ),
    "keys in the place of artifacts": (
        "run --artifacts s3://key:secret@bucket/p",
        "found 's3://key:***@bucket/p', expected s3://BUCKET",
        "AWS_SECRET_ACCESS_KEY",
    ),
    "a mistyped place of artifacts": ("run --artifacts s3:/key:secret@bucket", "'s3:/key:***@"),
    "data on a server": ("run --dataset https://ann:secret@host/x.npz", "https://ann:***@host"),
    "nobody's home": ("check --dataset ~no-such-user/x", "~no-such-user/x: no such file or folder"),
    "nobody's home for a model": ("predict ~no-such-user/m a.png", "found no such folder"),
    "an allowed host as a URL": (
        "dashboard --allowed-host http://x/",
        "--allowed-host: found 'http://x/', expected the host name or address",
    ),
    "every host allowed": ("dashboard --allowed-host *", "--allowed-host: found '*'", "each one"),
    "a name too long for a study": (
        f"run --study {'n' * 513}",
        "name: found 513 characters ('nnn",
        "expected at most 512; choose another name",
    ),
    "a name of half a character": ("submit --study \udcff", "--study: found '\\udcff'", "in UTF-8"),
    "no server": (
        "run --storage postgresql://user:secret@127.0.0.1:1/x",
        "cannot use postgresql://user:***@127.0.0.1:1/x",
        "check the URL and that it is up",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be_followed_are_refused(case, cli, tmp_path):
    command, *words = OPTIONS[case]

    result = cli(*command.split())

    assert_one_line(result, *words)
    assert "secret" not in result.out + result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "check", "submit"])
def test_a_folder_for_a_study_file_is_refused_with_the_way_to_pass_images(command, cli, tmp_path):
    (tmp_path / "my images").mkdir()

    result = cli(command, "my images")

    assert_one_line(result, "found a folder, expected a TOML file", "--dataset 'my images'")


def test_a_study_file_may_begin_with_the_mark_that_editors_on_windows_write(cli, tmp_path):
    (tmp_path / "study.toml").write_text('name = "marked"\r\n', encoding="utf-8-sig")

    result = cli("check", "study.toml")

    assert result.code == 0, result.err
    assert "marked" in result.out


def test_a_study_file_may_come_through_a_pipe_of_the_shell(shell):
    process = shell.start("check", "/dev/stdin", stdin=subprocess.PIPE)
    process.stdin.write('name = "piped"\n')
    process.stdin.close()
    process.stdin = None  # else communicate() flushes it

    result = shell.wait(process)

    assert (result.code, result.err) == (0, "")
    assert "piped" in result.out


@pytest.mark.parametrize("place", ["URL", "query", "PGPASSWORD", "PGPASSWORD_FILE"])
def test_the_password_of_a_storage_is_not_shown_with_verbose_either(shell, monkeypatch, place):
    (shell.folder / "password.txt").write_text("secret")
    url = "postgresql://user@127.0.0.1:1/x"
    if place == "URL":
        url = "postgresql://user:secret@127.0.0.1:1/x"
    elif place == "query":
        url += "?password=secret"
    else:
        value = "password.txt" if place == "PGPASSWORD_FILE" else "secret"
        monkeypatch.setenv(place, value)

    result = shell.run("--verbose", "status", "--storage", url)

    assert result.code == 2
    assert "Traceback" in result.err
    assert "secret" not in result.out + result.err


def test_cuda_is_refused_where_there_is_none(cli, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")

    assert_one_line(cli("run", "--device", "cuda"), "device: found 'cuda'", "cpu", "'auto'")
    assert list(tmp_path.iterdir()) == []


BAD_DATA = {
    "missing": (lambda path, x, y: None, "bad.npz: no such file or folder"),
    "corrupt": (
        lambda path, x, y: path.write_bytes(b"hello"),
        "bad.npz",
        "not an archive of arrays",
        "numpy.savez",
    ),
    "labels out of range": (
        lambda path, x, y: np.savez(path, x_train=x, y_train=y - 1),
        "bad.npz",
        "found the label -1",
        "renumber",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_data_that_cannot_be_trained_on_is_refused(case, cli, tmp_path, digits):
    make, *words = BAD_DATA[case]
    make(tmp_path / "bad.npz", *digits)
    before = sorted(tmp_path.iterdir())

    assert_one_line(cli("run", "--dataset", "bad.npz"), *words)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["run", "list"])
@pytest.mark.parametrize("kind", ["another program's", "text", "a short text"])
def test_a_database_that_is_not_ours_is_refused_and_left_alone(kind, command, cli, tmp_path):
    database = tmp_path / "theirs.db"
    if "text" in kind:
        line = "Dear diary, today I met an octopus. "
        database.write_text(line if kind == "a short text" else line * 50)
        words = "cannot be read as an SQLite database"
    else:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE pets (name)")
            connection.commit()
        words = "another program's tables (pets, …)"
    before = database.read_bytes()

    assert_one_line(cli(command, "--storage", database), words, "name another")
    assert database.read_bytes() == before
    assert list(tmp_path.iterdir()) == [database]


STUDY_COMMANDS = {
    "unknown to enqueue": ("enqueue smal --set n_blocks=1", "did you mean 'small'?"),
    "unknown to delete": ("delete smal --yes", "did you mean 'small'?"),
    "unknown by its place": ("front smal --json", "did you mean 'small'?"),
    "no name to delete": ("delete --yes", "found no study name, expected one", "hpsearch list"),
    "unknown to stop": ("stop --study smal", "did you mean 'small'?"),
    "outside the space": (
        "enqueue small --set n_blocks=5",
        "n_blocks: found 5",
        "1 to 2",
        "choose",
    ),
    "not a number": ("enqueue small --set n_blocks=two", "found 'two', expected a number"),
    "infinite": ("enqueue small --set n_blocks=inf", "n_blocks: found inf, expected"),
    "not a number at all": ("enqueue small --set n_blocks=nan", "n_blocks: found nan, expected"),
    "nothing for the name": ("export -o t --study=", "found no study ''", "known: small"),
    "nothing for the data": ("rerun 0 --dataset=", "data.dataset: found '', expected a name"),
    "a value twice": (
        "enqueue small --set n_blocks=1 --set n_blocks=2",
        "--set n_blocks: found it twice, expected it once; keep one",
    ),
    "a value without a name": ("enqueue small --set =1", "found '=1', expected NAME=VALUE"),
    "fewer epochs": ("run small.toml --epochs 1", "train.epochs was 2, now 1", "--study"),
    "another seed": ("run small.toml --seed 7", "search.seed was 0, now 7", "--study"),
    "other objectives": (
        "run small.toml --objectives accuracy,params",
        "search.objectives was ['accuracy', 'train_seconds'], now ['accuracy', 'params']",
    ),
}


@pytest.mark.parametrize("case", STUDY_COMMANDS)
def test_a_request_that_a_study_cannot_meet_is_refused_and_changes_nothing(case, copied, cli):
    command, *words = STUDY_COMMANDS[case]
    before = dump(copied.database)

    assert_one_line(cli(*command.split()), *words)
    assert dump(copied.database) == before


def test_a_changed_space_is_refused_naming_the_old_and_the_new(copied, cli):
    text = copied.study_file.read_text().replace('optimizer = "adam"', 'optimizer = "sgd"')
    copied.study_file.write_text(text)
    before = dump(copied.database)

    result = cli("run", copied.study_file, "--threads", 1)

    assert_one_line(result, "study 'small' has changed: space.optimizer was 'adam', now 'sgd'")
    assert dump(copied.database) == before


def test_changed_images_are_refused(copied, cli, digits, tmp_path):
    images, labels = digits
    np.savez(tmp_path / "other.npz", x_train=images[::-1], y_train=labels)
    before = dump(copied.database)

    result = cli("run", copied.study_file, "--dataset", "other.npz", "--threads", 1)

    assert_one_line(
        result,
        "'small' has changed: data.dataset was '",
        ", now 'other.npz'; the images (same number, different content); run",
    )
    assert dump(copied.database) == before


def test_of_more_images_the_number_is_named(copied, cli, digits, tmp_path):
    images, labels = (np.concatenate([part, part[:24]]) for part in digits)
    np.savez(tmp_path / "more.npz", x_train=images, y_train=labels)

    result = cli("run", copied.study_file, "--dataset", "more.npz", "--threads", 1)

    assert_one_line(
        result, "now 'more.npz'; the images (160 for training, now ", "; run it as it was"
    )


def test_the_same_images_elsewhere_are_the_same_data(copied, cli, digits, tmp_path):
    np.savez(tmp_path / "moved.npz", x_train=digits[0], y_train=digits[1])

    assert cli("run", copied.study_file, "--dataset", "moved.npz", "--threads", 1).code == 0


def test_other_threads_than_the_studys_are_refused_unless_mixed(copied, cli):
    """Keeps the promise "Training times are measured on one kind of hardware …" of docs/workers.md.

    Keeps the promise "A worker on other hardware is refused …" of docs/workers.md.
    """
    before = dump(copied.database)

    refused = cli("run", copied.study_file, "--threads", 2, "--trials", 4)

    assert_one_line(refused, "with 2 threads", "with 1 thread;", "--mixed-hardware")
    assert dump(copied.database) == before


def test_mixed_hardware_is_let_in_and_marked(copied, cli):
    options = ("--threads", 2, "--trials", 4, "--mixed-hardware")

    assert cli("run", copied.study_file, *options).code == 0
    assert cli("show", 3, "--json").json["attributes"]["origin"]["mixed_hardware"] is True


def test_a_bad_input_to_the_real_process_is_one_line_too(shell):
    assert_one_line(shell.run("run", "--trials", 0), "search.trials: found 0")
    assert list(shell.folder.iterdir()) == []


TEXTS = ("run --study", "submit --study", "run --dataset", "list --storage", "front --study")


@pytest.mark.parametrize("command", [*TEXTS, "enqueue small --set", "stop", "train -o m --set"])
def test_text_that_is_not_utf8_is_refused_and_makes_no_database(command, cli, tmp_path):
    """A shell passes bytes as they are, and Python turns those that are not UTF-8 into these."""
    assert_one_line(cli(*command.split(), "\udcff"), r": found '\udcff', expected text in UTF-8")
    assert list(tmp_path.iterdir()) == []


def test_bytes_of_a_command_line_that_are_not_utf8_reach_the_real_process(shell):
    assert_one_line(
        shell.run("run", "--study", "\udcff"), "--study: found", "expected text in UTF-8"
    )
    assert list(shell.folder.iterdir()) == []


@pytest.mark.parametrize("command", ["list --storage", "run", "predict m"])
def test_a_pipe_without_a_writer_is_refused_at_once(command, shell):
    os.mkfifo(shell.folder / "pipe")

    result = shell.run(*command.split(), "pipe")

    assert result.code == 2
    assert list(shell.folder.iterdir()) == [shell.folder / "pipe"]


def test_an_empty_study_name_before_the_options_is_none_too(copied, cli):
    assert_one_line(cli("export", "", "-o", "t"), "found no study ''", "known: small")
