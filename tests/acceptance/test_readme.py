"""The README and docs against the program: commands, options, files and names that they mention."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import hpsearch
from hpsearch.cli.main import app

ROOT = Path(__file__).parents[2]
COMMAND = typer.main.get_command(app)
COMMANDS = COMMAND.commands
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
OTHERS_OPTIONS = {"--cost"}  # of the benchmarks


def typed():
    """Every `hpsearch …` line of the fenced blocks, without its comment."""
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M):
            for line in re.findall(r"^(?:\$ )?hpsearch (.+)$", block, re.MULTILINE):
                yield line.partition("  #")[0].strip()


def test_the_first_screen_has_two_commands_each_in_a_block_of_its_own():
    first, second = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert first.splitlines()[-1] == "hpsearch run --trials 100"
    assert second.splitlines()[-1] == "pytest"


@pytest.mark.parametrize("line", sorted(set(typed())))
def test_what_is_to_be_typed_is_taken(line):
    name, *arguments = shlex.split(line)
    with COMMANDS[name].make_context(name, arguments):  # parses, and runs nothing
        pass


def test_every_command_is_in_the_table_of_commands():
    table = README[README.index("## Commands") : README.index("## Several workers")]
    told = set(re.findall(r"`(?:hpsearch )?([a-z]+)\b", table))
    assert set(COMMANDS) - told == set()


def test_every_option_that_is_told_exists():
    commands = (COMMAND, *COMMANDS.values())
    known = {o for command in commands for p in command.params for o in p.opts}
    prose = re.sub(r"^```bash\n.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", prose))
    assert told - known - OTHERS_OPTIONS - {"--help"} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_benchmark_that_is_named_exists():
    for name in re.findall(r"bench_\w+\.py", README):
        assert (ROOT / "tests" / "benchmarks" / name).exists()


def test_every_name_of_the_package_that_is_told_is_public():
    told = set(re.findall(r"\bhpsearch\.([a-zA-Z]\w*)\b", README)) - {"db"}
    assert told <= set(hpsearch.__all__)
