"""The report as one self-contained HTML file: it needs no network and no second file."""

from __future__ import annotations

import base64
import functools
import gzip
import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from hpsearch.view.document import SPAN, Section
from hpsearch.view.report.theme import DARK

_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|ms|min|h|d|nats|points|[kMGT])(?:\W|$))")


def page(sections: Sequence[Section], *, subject: str, about: str) -> str:
    """Returns the report as HTML.

    Args:
        sections: the first one is the answer; its title is the headline of the page.
        subject: the study or studies, by name.
        about: a line in the footer: when and by which version the page was written.
    """
    answer, *rest = sections
    drawings = [drawing for section in sections for drawing in section.drawings]
    figures = {drawing.key: drawing.draw().to_plotly_json() for drawing in drawings}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            answer=answer,
            rest=rest,
            subject=subject,
            about=about,
            drawn={"figures": figures, "dark": dict(DARK)} if figures else None,
            plotly=_plotly_packed() if figures else None,
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hpsearch.view.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # `tojson` also escapes "<", so that no text can end the script that holds it.
    environment.policies["json.dumps_kwargs"] = {
        "cls": PlotlyJSONEncoder,
        "separators": (",", ":"),
    }
    environment.filters["units"] = lambda text: _UNIT.sub("\u00a0", text)  # keeps "5 s" on one line
    environment.filters["code_spans"] = SPAN.split  # text and code in turn
    return environment


@functools.cache
def _plotly_packed() -> str:
    """Plotly's own script, gzipped (4.8 MB become 1.5) and in base64; the page unpacks it."""
    packed = gzip.compress(get_plotlyjs().encode(), mtime=0)  # the same bytes every time
    return base64.b64encode(packed).decode()
