"""Counts the phrases that plain technical English avoids, in Python sources and in pages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TELL = re.compile(r"\b(?:tell|tells|told|telling)\b", re.IGNORECASE)
# A clause that stands for a noun ("what is slow", "whoever calls it"). A question is none.
_QUESTION = r"(?![^.;:!]*\?)"
_BEFORE = (r"\band", r"\bbut", r"\bby", r"\bfor", r"\bof", r"\bor", r"\bthan", r"\bto", r"\bwith")
_CLAUSE_START = "|".join(["^", *(rf"(?<={word}\s)" for word in (*_BEFORE, "[.;:(]"))])
FREE_RELATIVE = re.compile(
    rf"\bwhat\s+(?:is|are|was|were|has|had|a|an|the|it|they|one|we)\b{_QUESTION}"
    rf"|\bwhoever\b|(?:{_CLAUSE_START})who\s+(?:is|has|was)\b{_QUESTION}",
    re.IGNORECASE,
)
IDIOMS = (
    "anew",
    r"as it is(?=[.,;:)]|$)",
    "bargain",
    "by now",
    "dearer",
    "likewise",
    "mend",
    "mended",
    "mending",
    "mends",
    "of one's own",
    "of ours",
    "patiently",
    "so many",
    "take home",
    "taken home",
    "takes home",
    "taking home",
    "the person",
    "where there is none",
    "where there is one",
)
IDIOM = re.compile(rf"\b(?:{'|'.join(IDIOMS)})\b".replace(" ", r"\s+"), re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][\w'-]*")
_DIRECTIVE = re.compile(r"#\s*(?:type:|noqa|pragma|fmt:|!)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A docstring, a run of comment lines, a string literal or a page, and where it begins."""

    path: str
    line: int
    text: str

    def matches(self, pattern: re.Pattern[str]) -> list[str]:
        """Returns ``path:line: phrase`` for each match, the phrase with the words around it."""
        found = []
        for match in pattern.finditer(self.text):
            line = self.line + self.text.count("\n", 0, match.start())
            around = self.text[max(match.start() - 25, 0) : match.end() + 25]
            found.append(f"{self.path}:{line}: …{' '.join(around.split())}…")
        return found


def prose(root: Path) -> list[Passage]:
    """Returns the docstrings and comments of every Python file of ``root/hpsearch``."""
    return [
        passage
        for path, source in _sources(root)
        for passage in (*_docstrings(path, source), *_comments(path, source))
    ]


def literals(root: Path) -> list[Passage]:
    """Returns the string literals with a space in them: messages, help, templates, SQL."""
    return [passage for path, source in _sources(root) for passage in _literals(path, source)]


def pages(root: Path) -> list[Passage]:
    """Returns README, changelog, the pages of docs/ and the package's templates, each whole.

    Fenced blocks of code are left out: their lines are blank, so that numbers of lines stay.
    """
    paths = [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").glob("*.md"))]
    paths += sorted((root / "hpsearch").rglob("*.j2"))
    return [
        Passage(
            path=str(path.relative_to(root)),
            line=1,
            text=re.sub(
                r"^```.*?^```",
                lambda block: "\n" * block[0].count("\n"),
                path.read_text(encoding="utf-8"),
                flags=re.DOTALL | re.MULTILINE,
            ),
        )
        for path in paths
    ]


def words(passages: Iterable[Passage]) -> int:
    """Returns the number of words in the passages."""
    return sum(len(_WORD.findall(passage.text)) for passage in passages)


def find(pattern: re.Pattern[str], passages: Iterable[Passage]) -> list[str]:
    """Returns all matches in the passages, each as ``path:line: phrase``."""
    return [match for passage in passages for match in passage.matches(pattern)]


def _sources(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((root / "hpsearch").rglob("*.py")):
        yield str(path.relative_to(root)), path.read_text(encoding="utf-8")


def _docstring_nodes(tree: ast.AST) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        # A string that is a statement: of a module, class or function, or below an attribute.
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value


def _docstrings(path: str, source: str) -> Iterator[Passage]:
    for node in _docstring_nodes(ast.parse(source)):
        yield Passage(path=path, line=node.lineno, text=node.value)


def _comments(path: str, source: str) -> Iterator[Passage]:
    """Yields each run of comment lines as one passage, so that phrases may cross lines."""
    run: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _DIRECTIVE.match(token.string):
            continue
        alone = token.line.lstrip().startswith("#")
        if run and not (alone and token.start[0] == run[-1].start[0] + 1):
            yield _comment(path, run)
            run = []
        run.append(token)
    if run:
        yield _comment(path, run)


def _comment(path: str, run: list[tokenize.TokenInfo]) -> Passage:
    text = "\n".join(token.string.lstrip("# ") for token in run)
    return Passage(path=path, line=run[0].start[0], text=text)


def _literals(path: str, source: str) -> Iterator[Passage]:
    tree = ast.parse(source)
    skipped = {id(node) for node in _docstring_nodes(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):  # an f-string is one text, its values left out
            skipped |= {id(part) for part in node.values}
            text = "".join(
                part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = "" if id(node) in skipped else node.value
        else:
            continue
        if " " in text.strip():
            yield Passage(path=path, line=node.lineno, text=text)
