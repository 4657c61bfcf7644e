"""Help: every command has it, with an example that the parser takes."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from hpsearch.cli.main import app

ROOT = typer.main.get_command(app)
COMMANDS = sorted(ROOT.commands)


def test_no_description_is_cut_at_80_columns(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    assert "..." not in cli("--help").out.partition("Commands:")[2]


@pytest.mark.parametrize("arguments", [(), ("-h",)])
def test_no_argument_and_the_short_option_print_the_help(cli, arguments):
    assert cli(*arguments) == cli("--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_one_that_it_takes(name):
    (line,) = re.findall(r"Example: hpsearch (.*)", ROOT.commands[name].help)
    command, *arguments = shlex.split(line)

    assert command == name
    with ROOT.commands[name].make_context(name, arguments):  # parses, and runs nothing
        pass


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_explained(name):
    unexplained = [p.name for p in ROOT.commands[name].params if not getattr(p, "help", "given")]

    assert unexplained == []
