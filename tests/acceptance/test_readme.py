"""README and docs against the program: commands, options, files and names that they mention."""

from __future__ import annotations

import ast
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
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
README, ALL = TEXTS["README.md"], "\n".join(TEXTS.values())
OTHERS_OPTIONS = {  # of the benchmarks, and of pip
    *("--cost", "--seed", "--sizes", "--trace", "--trials", "--trials-each"),
    "--index-url",
}
MOST_WORDS = 1500
PATH = re.compile(  # of the checkout: in backticks, with a folder or a suffix
    r"`((?:hpsearch|tests|studies|docker|docs|cli|api|view|search|nn|util|core)/[\w./-]*"
    r"|(?:config|errors)\.py)`"
)


POINTER = re.compile(r"See |\[|Any number of machines|$")  # to another page; of an example
KEPT = re.compile(r'Keeps the promise "(.+?)(?: …)?" of (\S+)\.$', re.MULTILINE)
PROMISES = {  # where each sentence is kept by a test: a heading, or the first words of a list item
    "README.md": ("* **Interrupt and resume.**", "* **Use the cores.**", "* **An exact budget.**"),
    "docs/workers.md": ("## Several machines", "## Crashes and outages"),
}


def promises(page):
    """The sentences of a page that promise something about workers."""
    for start in PROMISES[page]:
        _, _, text = TEXTS[page].partition(start)
        text = text.partition("\n## " if start.startswith("#") else "\n")[0]
        items = text.split("\n* ") if start.startswith("#") else [text]
        for item in items:
            prose = re.sub(r"^```.*?^```|^\*\*.*?\*\*", "", item, flags=re.DOTALL | re.MULTILINE)
            yield from re.split(r"(?<=[.)])\s+(?=[A-Z`(\[])", prose.strip().replace("\n", " "))


def kept_promises():
    """The beginnings of sentences that tests keep, by page, from their docstrings."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            doc = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            for words, page in KEPT.findall(doc or ""):
                yield f"{page}.md" if page == "README" else page, words


def blocks():
    """Every fenced block of the pages."""
    for text in TEXTS.values():
        yield from re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


def typed():
    """Every `hpsearch …` line of the fenced blocks, without its comment."""
    for block in blocks():
        for line in re.findall(r"^ *(?:\$ )?hpsearch (.+)$", block, re.MULTILINE):
            yield line.partition("  #")[0].strip()


def unknown_options(text):
    """The options that the text mentions and no command has."""
    commands = (COMMAND, *COMMANDS.values())
    known = {o for command in commands for p in command.params for o in p.opts}
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    return mentioned - known - OTHERS_OPTIONS - {"--help"}


def missing_paths(text):
    """The paths of the checkout that the text mentions and that do not exist."""
    tops = (ROOT, ROOT / "hpsearch")
    return [p for p in PATH.findall(text) if not any((top / p).exists() for top in tops)]


def private_names(text):
    """The names after `hpsearch.` that the text mentions and that are neither public nor files."""
    mentioned = set(re.findall(r"\bhpsearch\.([a-zA-Z]\w*)\b", text)) - {"db"}
    rooms = {path.name for path in (ROOT / "hpsearch").iterdir()}
    return mentioned - set(hpsearch.__all__) - rooms


def test_the_readme_is_short():
    assert len(README.split()) <= MOST_WORDS


def test_the_first_screen_has_two_commands_each_in_a_block_of_its_own():
    first, second = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert first.splitlines()[-1] == "hpsearch run --trials 100"
    assert second.splitlines()[-1] == "pytest"


@pytest.mark.parametrize("line", sorted(set(typed())))
def test_each_command_line_is_accepted(line):
    name, *arguments = shlex.split(line)
    with COMMANDS[name].make_context(name, arguments):  # parses, and runs nothing
        pass


def test_every_command_is_in_a_table_of_commands():
    rows = re.findall(r"^\| `hpsearch ([a-z]+)\b", TEXTS["docs/commands.md"], re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


@pytest.mark.parametrize("page", TEXTS)
def test_every_option_that_is_mentioned_exists(page):
    prose = re.sub(r"^```bash\n.*?^```", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    assert unknown_options(prose) == set()


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", TEXTS[page])
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", TEXTS)
def test_every_file_that_is_mentioned_exists(page):
    assert missing_paths(TEXTS[page]) == []
    for name in re.findall(r"bench_\w+\.py", TEXTS[page]):
        assert (ROOT / "tests" / "benchmarks" / name).exists()


@pytest.mark.parametrize("page", TEXTS)
def test_every_name_of_the_package_that_is_mentioned_is_public(page):
    assert private_names(TEXTS[page]) == set()


def test_every_page_is_linked_from_the_readme():
    pages = {page for page in TEXTS if page != "README.md"}
    assert pages <= set(re.findall(r"\]\(([^)#]+)\)", README))


def test_every_variable_of_the_environment_is_documented():
    sources = (path.read_text("utf-8") for path in (ROOT / "hpsearch").rglob("*.py"))
    read = {name for source in sources for name in re.findall(r"\bHPSEARCH_[A-Z_]+\b", source)}
    internal = {"HPSEARCH_PARENT"}  # set by `run --workers` for the processes that it starts
    assert read - internal - set(re.findall(r"\bHPSEARCH_[A-Z_]+\b", ALL)) == set()


@pytest.mark.parametrize("page", PROMISES)
def test_each_promise_about_workers_is_kept_by_a_test(page):
    kept = {words for where, words in kept_promises() if where == page}
    made = [sentence for sentence in promises(page) if not POINTER.match(sentence)]
    assert len(made) >= len(PROMISES[page])
    assert [sentence for sentence in made if not sentence.startswith(tuple(kept))] == []
    assert [words for words in kept if not any(s.startswith(words) for s in made)] == []


def test_mistakes_in_a_page_are_found():
    text = "`--trails 100`, `core/pruner.py`, `docs/nowhere.md`, `core/spec.py`, hpsearch.search_it"
    assert unknown_options(text) == {"--trails"}
    assert missing_paths(text) == ["core/pruner.py", "docs/nowhere.md"]
    assert private_names(text) == {"search_it"}
