"""Plain technical English: the package's prose, its messages and the pages are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import prose
from tests.benchmarks.prose import Passage

ROOT = Path(__file__).parents[2]
MOST_TELLS, MOST_FREE_RELATIVES = 0.3, 0.5  # per 1,000 words
PROSE, LITERALS, PAGES = prose.prose(ROOT), prose.literals(ROOT), prose.pages(ROOT)


def assert_at_most(limit, pattern, passages):
    """Fails with every match where the passages hold more than that many per 1,000 words."""
    found = prose.find(pattern, passages)
    rate = 1000 * len(found) / prose.words(passages)
    assert rate <= limit, f"{rate:.2f} per 1,000 words, at most {limit}:\n" + "\n".join(found)


@pytest.mark.parametrize("passages", [PROSE, PAGES], ids=["docstrings and comments", "pages"])
def test_tell_and_told_are_rare(passages):
    assert_at_most(MOST_TELLS, prose.TELL, passages)


@pytest.mark.parametrize("passages", [PROSE, PAGES], ids=["docstrings and comments", "pages"])
def test_free_relatives_are_rare(passages):
    assert_at_most(MOST_FREE_RELATIVES, prose.FREE_RELATIVE, passages)


@pytest.mark.parametrize(
    "passages",
    [PROSE, LITERALS, PAGES],
    ids=["docstrings and comments", "string literals", "pages"],
)
def test_no_idiom_of_the_list_is_used(passages):
    found = prose.find(prose.IDIOM, passages)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (prose.TELL, "The error tells the limit."),
        (prose.TELL, "nothing is told twice"),
        (prose.FREE_RELATIVE, "Raises an error for what is not finite."),
        (prose.FREE_RELATIVE, "Returns what\nit was given."),
        (prose.FREE_RELATIVE, "Whoever looks at it sees that."),
        (prose.FREE_RELATIVE, "Who is late has to wait."),
        (prose.FREE_RELATIVE, "A second brake: who was wrong has to wait."),
        (prose.IDIOM, "The trial is another worker's by\nnow."),
        (prose.IDIOM, "the front's best bargain"),
        (prose.IDIOM, "Any notebook reads it as it is."),
    ],
)
def test_a_phrase_is_found_and_reported_with_its_line(pattern, text):
    (found,) = prose.find(pattern, [Passage(path="file.py", line=7, text=f"Fine.\n{text}")])
    assert found.startswith("file.py:8: ")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (prose.FREE_RELATIVE, "Which worker has it, and what is the limit?"),
        (prose.FREE_RELATIVE, "A user who is away loses nothing."),
        (prose.IDIOM, "an amendment, as it isolates, as it is complete"),
        (prose.TELL, "intellectual"),
    ],
)
def test_ordinary_sentences_are_left_alone(pattern, text):
    assert prose.find(pattern, [Passage(path="file.py", line=1, text=text)]) == []


def test_docstrings_comments_and_messages_are_read_apart(tmp_path):
    (tmp_path / "hpsearch").mkdir()
    (tmp_path / "hpsearch" / "file.py").write_text(
        '"""A docstring."""\n\n'
        "# A comment of\n# two lines.\n"
        "LIMIT = 3  # and one beside code\n\n\n"
        'def fail(n):\n    """Fails."""\n    raise ValueError(f"found {n}, expected " f"{LIMIT}")\n'
    )
    assert [(p.line, p.text) for p in prose.prose(tmp_path)] == [
        (1, "A docstring."),
        (9, "Fails."),
        (3, "A comment of\ntwo lines."),
        (5, "and one beside code"),
    ]
    assert [(p.line, p.text) for p in prose.literals(tmp_path)] == [(10, "found {}, expected {}")]
