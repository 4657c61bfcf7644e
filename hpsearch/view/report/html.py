"""The report as one HTML file that needs nothing else: no network, no second file."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from plotly.utils import PlotlyJSONEncoder

from hpsearch.view.document import SPAN, Cell, Code, Drawing, Section, Table
from hpsearch.view.report.theme import DARK

_PARTS = Path(__file__).parent / "page"
_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|ms|min|h|d|nats|points|[kMGT])(?:\W|$))")
_SHORT = 16  # characters that a table's cell does not break
_COLUMNS = {1: "one", 2: "two"}
# Nothing may be fetched, whatever the page holds.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def page(sections: Sequence[Section], *, subject: str, about: str) -> str:
    """Returns the report as HTML.

    Args:
        sections: the first one is the answer, its title the page's headline.
        subject: what the page is of: a study or several, by name.
        about: a line on what the report tells of and when, under the headline.
    """
    answer, *rest = sections
    drawings = [drawing for section in sections for drawing in section.drawings]
    body = "\n".join(
        [
            f"<header><p>hpsearch · {_text(subject)}</p>",
            f"<h1>{_text(answer.title)}</h1></header>",
            f"<main>{_body(answer)}",
            *(f'<section id="{s.key}"><h2>{_text(s.title)}</h2>{_body(s)}</section>' for s in rest),
            f"</main><footer>{_text(about)}</footer>",
        ]
    )
    return "\n".join([_head(subject), "<body>", body, *_scripts(drawings), "</body></html>", ""])


def _head(subject: str) -> str:
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<link rel="icon" href="data:,">',
            f"<title>{_text(subject)} · hpsearch report</title>",
            f"<style>{_part('report.css')}</style></head>",
        ]
    )


def _scripts(drawings: Sequence[Drawing]) -> list[str]:
    """Plotly's smallest bundle (scatter, bar and pie), the figures, and what draws them."""
    if not drawings:
        return []
    figures = {drawing.key: drawing.draw().to_plotly_json() for drawing in drawings}
    numbers = json.dumps(
        {"figures": figures, "dark": dict(DARK)}, cls=PlotlyJSONEncoder, separators=(",", ":")
    )
    return [
        "<noscript><p>The figures need JavaScript; the words and tables do not.</p></noscript>",
        f'<script type="application/json" id="figures">{_in_script(numbers)}</script>',
        f"<script>{_part('plotly-basic.min.js')}</script>",
        f"<script>{_part('report.js')}</script>",
    ]


def _in_script(text: str) -> str:
    """Text that cannot end the script it stands in."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _body(section: Section) -> str:
    parts = [f"<p>{_prose(words)}</p>" for words in section.words]
    parts.append(_figures(section.drawings))
    parts += [f'<p class="small">{_prose(caption)}</p>' for caption in section.captions]
    parts += [_table(table) for table in section.tables]
    parts += [f'<p class="small">{_prose(note)}</p>' for note in section.notes]
    parts += [_folded(name, f"<pre>{_code(code.text)}</pre>") for name, code in section.hidden]
    return "\n".join(part for part in parts if part)


def _figures(drawings: Sequence[Drawing]) -> str:
    if not drawings:
        return ""
    columns = _COLUMNS.get(len(drawings), "three" if len(drawings) % 3 == 0 else "two")
    nodes = (_figure(drawing) for drawing in drawings)
    return f'<div class="figures {columns}">{"".join(nodes)}</div>'


def _figure(drawing: Drawing) -> str:
    about = f'role="img" aria-label="{_text(drawing.about)}"'
    height = ""
    if drawing.rows is not None:
        height = f' style="height: {min(40.0, 7 + 2.2 * drawing.rows):.1f}rem"'
    return f'<div class="figure" id="{_text(drawing.key)}" {about}{height}></div>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in table.header)
    rows = [_row(table, i) for i in range(len(table.rows))]
    header = f"<thead><tr>{head}</tr></thead>" if table.header else ""
    made = f"<table>{header}<tbody>{''.join(rows)}</tbody></table>"
    return _folded(table.folded, made) if table.folded else made


def _folded(name: str, inner: str) -> str:
    return f"<details><summary>{_text(name)}</summary>{inner}</details>"


def _row(table: Table, i: int) -> str:
    marked = ' class="marked"' if i == table.marked else ""
    if not table.header:
        first, *rest = table.rows[i]
        tag = "th" if rest else "td"
        cells = f"<{tag}>{_cell(first)}</{tag}>" + "".join(f"<td>{_cell(c)}</td>" for c in rest)
        return f"<tr{marked}>{cells}</tr>"
    pairs = zip(table.header, table.rows[i], strict=True)
    labelled = (f'<td data-label="{_text(n)}"{_width(c)}>{_cell(c)}</td>' for n, c in pairs)
    return f"<tr{marked}>{''.join(labelled)}</tr>"


def _width(cell: Cell) -> str:
    return ' class="short"' if isinstance(cell, str) and len(cell) <= _SHORT else ""


def _cell(cell: Cell) -> str:
    return f"<code>{_code(cell.text)}</code>" if isinstance(cell, Code) else _text(cell)


def _prose(words: str) -> str:
    """Words as HTML holds them, with the code that they hold."""
    parts = SPAN.split(words)  # every other one is code
    return "".join(
        f"<code>{_code(part)}</code>" if i % 2 else _text(part) for i, part in enumerate(parts)
    )


def _code(text: str) -> str:
    """The text as HTML holds it, to be copied as it is."""
    return html.escape(text, quote=True)


def _text(text: str) -> str:
    """The text as HTML holds it; a number is not torn from its unit."""
    return html.escape(_UNIT.sub("\u00a0", text), quote=True)
