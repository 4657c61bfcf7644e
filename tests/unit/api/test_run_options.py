"""The options of a run: one set for the command line, the Python API and the study file."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
import typer

import hpsearch
from hpsearch import build_spec
from hpsearch.api.run import RunOptions
from hpsearch.cli.main import app
from hpsearch.search.worker.launch import WorkerOptions

NAMES = [each.name for each in fields(RunOptions)]
NOT_OPTIONS = {"spec_or_path", "study_file", "notify", "ended", "help"}


def test_the_command_line_and_python_have_the_same_options_with_the_same_defaults():
    defaults = {each.name: each.default for each in fields(RunOptions)}
    command = typer.main.get_command(app).commands["run"]
    keywords = signature(hpsearch.run).parameters

    typed = {each.name: each.default for each in command.params if each.name not in NOT_OPTIONS}
    passed = {k: p.default for k, p in keywords.items() if k not in NOT_OPTIONS}

    assert list(typed) == list(passed)
    assert set(typed) == set(NAMES)
    assert typed == passed == defaults
    for each in command.params:
        if each.name in NAMES:
            assert each.opts[0] == "--" + each.name.replace("_", "-")


def test_a_model_is_trained_with_the_same_options_from_the_command_line_and_python():
    command = typer.main.get_command(app).commands["train"]
    keywords = dict(signature(hpsearch.train).parameters)

    typed = {each.name for each in command.params} - {"help", "json_"}

    assert typed == set(keywords) - {"stop", "notify", "tell"}


def test_options_override_the_keys_of_a_study_file():
    options = RunOptions(trials=9, objectives="accuracy, params", pruner="none", device="cpu")
    listed = RunOptions(trials=9, objectives=["accuracy", " params"], pruner="none", device="cuda")

    spec = build_spec(None, options.overrides())

    assert (spec.search.trials, spec.pruning.pruner) == (9, "none")
    assert spec.search.objectives == ("accuracy", "params")
    assert listed.overrides() == options.overrides()


def test_every_other_option_is_one_of_a_worker():
    keyless = {each.name for each in fields(RunOptions) if not each.metadata}

    assert keyless == {each.name for each in fields(WorkerOptions)} - {"code", "allow_code"}


@pytest.mark.parametrize("given", [False, True], ids=["environment", "option"])
def test_an_option_wins_over_the_environment(monkeypatch, given):
    monkeypatch.setenv("HPSEARCH_STORAGE", "env.db")
    monkeypatch.setenv("HPSEARCH_DATA", "env-data")
    monkeypatch.setenv("HPSEARCH_ARTIFACTS", "env-artifacts")
    values = {"storage": "my.db", "data_dir": "my-data", "artifacts": "my-artifacts"}

    found = RunOptions(**values if given else {}).worker_options(code=Path("here"))

    prefix = "my" if given else "env"
    assert (found.storage, found.data_dir) == (f"{prefix}.db", Path(f"{prefix}-data"))
    assert (found.artifacts, found.code) == (f"{prefix}-artifacts", Path("here"))
