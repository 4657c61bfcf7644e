"""Help: every command has it, with an example that the parser takes."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from hpsearch.cli.main import app

ROOT = typer.main.get_command(app)
COMMANDS = sorted(ROOT.commands)


def test_the_commands_are_those_that_are_promised():
    assert {"run", "list", "status", "show", "front", "dashboard"} <= set(COMMANDS)
    assert {"check", "enqueue", "stop", "delete"} <= set(COMMANDS)
    assert {"worker", "submit", "watch"} <= set(COMMANDS)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command(cli, option):
    result = cli(option)

    assert result.code == 0
    assert result.err == ""
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", result.out, re.MULTILINE)


def test_no_description_is_cut_at_80_columns(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    assert "..." not in cli("--help").out.partition("Commands:")[2]


def test_hpsearch_alone_prints_its_help(cli):
    assert cli() == cli("--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(cli, name):
    result = cli(name, "--help")

    assert result.code == 0
    assert result.err == ""
    assert f"Example: hpsearch {name}" in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_one_that_it_takes(name):
    (line,) = re.findall(r"Example: hpsearch (.*)", ROOT.commands[name].help)
    command, *arguments = shlex.split(line)

    assert command == name
    with ROOT.commands[name].make_context(name, arguments):  # parses, and runs nothing
        pass


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_explained(name):
    unexplained = [p.name for p in ROOT.commands[name].params if not getattr(p, "help", "told")]

    assert unexplained == []
