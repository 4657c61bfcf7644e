"""Figures of the code itself: size, imports, private functions, prose, files that a trial passes.

ROOT is a checkout, so that two commits can be compared:

    python tests/benchmarks/bench_code.py [ROOT] [--trace]
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import prose
from environment import print_table

_Function = ast.FunctionDef | ast.AsyncFunctionDef

# Runs in the measured checkout: profiles the main thread over `hpsearch run` of two trials, and
# prints the files of the package that each passes: from asking for it to the return of `finish`,
# and to asking for the next. A study's `claim` or `acquire` asks for a trial.
_TRACE = """
import json, os, sys
from hpsearch.__main__ import enter
package = os.path.dirname(sys.modules["hpsearch"].__file__)
trials, ended, depth = [], [], 0
os._exit = lambda code: None  # the command leaves at once, before the figures are printed

def profile(frame, event, argument):
    global depth
    path, name = frame.f_code.co_filename, frame.f_code.co_name
    if event not in ("call", "return") or name == "<module>" or not path.startswith(package):
        return
    is_finish = name == "finish" and os.sep + "search" + os.sep in path
    depth += is_finish * (1 if event == "call" else -1)
    if event == "call":
        if name in ("claim", "acquire") and path.endswith("study.py"):
            trials.append(set())
        if trials:
            trials[-1].add(os.path.relpath(path, package))
    elif is_finish and not depth:
        ended.append(len(trials[-1]))

sys.argv[1:] = ["run", "--dataset", "digits", "--trials", "2", "--epochs", "2", "--threads", "1",
                "--sampler", "random", "--pruner", "none", "--storage", "trace.db"]
sys.setprofile(profile)
enter()
sys.setprofile(None)
print(json.dumps([ended, [sorted(files) for files in trials[:2]]]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file of the package, read once."""

    module: str  # its dotted name
    is_package_file: bool
    text: str
    tree: ast.Module


def main() -> None:
    """Prints the table, and with ``--trace`` the files that each of two trials passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parents[2]
    parser.add_argument("root", nargs="?", type=Path, default=here, metavar="ROOT")
    parser.add_argument("--trace", action="store_true", help="also run two trials, profiled")
    options = parser.parse_args()
    root = options.root.resolve()
    sources = list(read(root))
    rows = [*sizes(sources), *edges(sources), *functions(sources), *phrases(root)]
    if options.trace:
        rows += trace(root)
    print_table(["figure", "value"], rows)


def read(root: Path) -> Iterator[Source]:
    """Yields every Python file of the package under the root."""
    for path in sorted((root / "hpsearch").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package_file = parts[-1] == "__init__"
        text = path.read_text(encoding="utf-8")
        yield Source(
            module=".".join(parts[:-1] if is_package_file else parts),
            is_package_file=is_package_file,
            text=text,
            tree=ast.parse(text),
        )


def sizes(sources: list[Source]) -> list[list[str]]:
    """Lines, files, and the share of lines that are comments."""
    lines = {source.module: len(source.text.splitlines()) for source in sources}
    longest = max(lines, key=lines.__getitem__)
    comments = sum(len(_lines_of_comments(source.text)) for source in sources)
    package_files = sum(source.is_package_file for source in sources)
    return [
        ["lines of the package", f"{sum(lines.values()):,}"],
        ["files", str(len(sources))],
        ["… modules / package files", f"{len(sources) - package_files} / {package_files}"],
        ["longest file, lines", f"{lines[longest]} ({longest})"],
        ["comment lines", f"{comments} ({comments / sum(lines.values()):.1%})"],
    ]


def edges(sources: list[Source]) -> list[list[str]]:
    """Distinct imports of our own modules, at the top of a file or inside functions, a file."""
    modules = {source.module for source in sources}
    found = sum(len(_own_imports(source, modules)) for source in sources)
    return [
        ["import edges", str(found)],
        ["… a file", f"{found / len(sources):.2f}"],
        ["… a module", f"{found / sum(not source.is_package_file for source in sources):.2f}"],
    ]


def _own_imports(source: Source, modules: set[str]) -> set[str]:
    package = source.module.split(".")
    package = package if source.is_package_file else package[:-1]
    targets = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                targets.add(inner if inner in modules else base)
    return targets & modules - {source.module}


def functions(sources: list[Source]) -> list[list[str]]:
    """Lengths in code lines, and the private functions that are referenced once."""
    lengths, private = {}, []  # private: how often each private function is referenced
    for source in sources:
        code = _lines_of_code(source)
        names = Counter(_names(source.tree))
        for node in ast.walk(source.tree):
            if isinstance(node, _Function):
                span = range(node.lineno, node.end_lineno + 1)
                lengths[f"{source.module}.{node.name}:{node.lineno}"] = len(code & {*span})
                if node.name.startswith("_") and not node.name.endswith("__"):
                    private.append(names[node.name])
    longest = max(lengths, key=lengths.__getitem__)
    ordered = sorted(lengths.values())
    once = private.count(1)
    return [
        ["functions", f"{len(lengths):,}"],
        ["… code lines, median / 90 %", f"{median(ordered)} / {ordered[len(ordered) * 9 // 10]}"],
        ["… above 50 code lines", str(sum(length > 50 for length in ordered))],
        ["… longest, code lines", f"{lengths[longest]} ({longest})"],
        ["private functions", str(len(private))],
        ["… used once, of all functions", f"{once} ({once / len(lengths):.1%})"],
        ["… used once, of the private ones", f"{once} ({once / len(private):.1%})"],
    ]


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _lines_of_code(source: Source) -> set[int]:
    """The lines that hold code: not blank, no comment alone, no docstring."""
    lines = {i for i, line in enumerate(source.text.splitlines(), 1) if line.strip()}
    lines -= _lines_of_comments(source.text)
    for node in ast.walk(source.tree):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            lines -= {*range(node.lineno, node.end_lineno + 1)}
    return lines


def _lines_of_comments(text: str) -> set[int]:
    """The lines that hold a comment alone."""
    return {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }


def phrases(root: Path) -> list[list[str]]:
    """The counts that tests/unit/test_english.py limits."""
    texts, pages = prose.prose(root), prose.pages(root)
    rows = [["words of docstrings and comments", f"{prose.words(texts):,}"]]
    for name, pattern in (("tell/told", prose.TELL), ("free relatives", prose.FREE_RELATIVE)):
        for kind, passages in (("code", texts), ("pages", pages)):
            found = len(prose.find(pattern, passages))
            rate = 1000 * found / prose.words(passages)
            rows.append([f"{name} in {kind}", f"{found} ({rate:.2f} per 1,000 words)"])
    found = [len(prose.find(prose.IDIOM, kind)) for kind in (texts, prose.literals(root), pages)]
    rows.append(["idioms in code / literals / pages", " / ".join(map(str, found))])
    return [*rows, ["words of README.md", f"{len((root / 'README.md').read_text().split()):,}"]]


def trace(root: Path) -> list[list[str]]:
    """The distinct files of the package that each of two trials passes, in the main thread."""
    with tempfile.TemporaryDirectory() as folder:
        output = subprocess.run(
            [sys.executable, "-c", _TRACE],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        ).stdout
    ended, trials = json.loads(output.splitlines()[-1])
    print("files of the last trial:", *trials[-1], sep="\n  ", end="\n\n")
    shown = [len(files) for files in trials]
    return [
        ["files that one trial passes, to its end", ", ".join(map(str, ended))],
        ["… and until the next begins", ", ".join(map(str, shown))],
    ]


if __name__ == "__main__":
    main()
