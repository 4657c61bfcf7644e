"""The report of a study as an HTML page, as Markdown or as JSON."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from hpsearch.core.analysis import study_analysis
from hpsearch.core.analysis.study_analysis import StudyAnalysis, as_plain
from hpsearch.core.spec import to_dict
from hpsearch.core.spec_text import to_toml
from hpsearch.errors import HpsearchError, nearest, plural
from hpsearch.util.atomic import atomic_write, check_file, open_regular
from hpsearch.view.document import SPAN, Cell, Code, Drawing, Section, Table, markdown
from hpsearch.view.format import (
    format_percent,
    format_seconds,
    savings_text,
    visible,
    visible_json,
)
from hpsearch.view.report import effect_sections, figures, front, narrative
from hpsearch.view.report.theme import DARK, SHOWN_SPANS


def timeline(analysis: StudyAnalysis) -> Section | None:
    """Returns which worker ran which trial when."""
    spans, presence = analysis.timeline, analysis.presence
    if not spans:
        return None
    caption = f"{SHOWN_SPANS:,} of {len(spans):,} trials are drawn, evenly spaced."
    return Section(
        key="timeline",
        title="The workers over time",
        words=[
            f"{plural(presence.workers, 'worker')}, {format_seconds(presence.seconds)} from the"
            f" first start to the last end, {format_percent(presence.busy)} of"
            f" {'its' if presence.workers == 1 else 'their'} time in trials."
        ],
        drawings=[
            Drawing(
                key="timeline-workers",
                about="the trials of each worker in time",
                draw=partial(figures.timeline, spans),
                rows=presence.workers,
            )
        ],
        captions=[caption] if len(spans) > SHOWN_SPANS else [],
    )


def savings(analysis: StudyAnalysis) -> Section | None:
    """Returns the savings by stopping trials early, and their possible cost."""
    if not analysis.trials:
        return None
    return Section(
        key="savings",
        title="What stopping early saved",
        words=[
            f"The search {savings_text(analysis.savings)}.",
            *narrative.audit_words(analysis.audit),
        ],
    )


def environment(analysis: StudyAnalysis) -> Section:
    """Returns the study file, the data and the hardware, to run the study again."""
    return Section(
        key="environment",
        title="Run it again",
        words=["Save the study file below as study.toml; this command runs the same search:"],
        tables=[
            Table(header=(), rows=((Code(text="hpsearch run study.toml"),),)),
            Table(header=(), rows=tuple(_facts(analysis.environment))),
        ],
        hidden=[("The study file", Code(text=to_toml(analysis.environment.spec)))],
    )


def _facts(known: study_analysis.Environment) -> list[tuple[Cell, ...]]:
    data = known.data
    size = " × ".join(str(side) for side in data.get("shape", ()))
    names = {"train": "train", "val": "validation", "test": "test"}
    parts = [f"{data[part]:,} {name}" for part, name in names.items() if part in data]
    prints = [f"{key} {data[key]}" for key in ("content", "split") if key in data]
    of_images = {
        "image size": f"{size} (channels × height × width)" if size else "",
        "classes": ", ".join(str(name) for name in data.get("classes", ())),
        "split": ", ".join(parts),
        "data fingerprint": ", ".join(prints),
    }
    facts: list[tuple[Cell, ...]] = [("data", known.spec.data.dataset)]
    facts += [(name, text) for name, text in of_images.items() if text]
    if "processor" in known.reference:
        threads = plural(known.reference.get("threads", 1), "thread")
        facts.append(("seconds are measured on", f"{known.reference['processor']}, {threads}"))
    for setting in known.settings:
        versions = ", ".join(f"{name} {version}" for name, version in setting.versions.items())
        trials = plural(setting.trials, "trial", thousands=",")
        facts.append((f"{trials} ran on", f"{setting.processor}; {versions}"))
    seed = f"{known.spec.search.seed}; each trial's seed follows from it and the trial's number"
    facts.append(("seed", seed))
    for change in known.changes:
        changed = change["changed"].items()
        settings = ", ".join(f"{key} {old} → {new}" for key, (old, new) in changed)
        at = change["at"][:16].replace("T", " ")
        facts.append(("changed during the study", f"{at} UTC: {settings}"))
    if known.created is not None:
        facts.append(("created", f"{known.created:%Y-%m-%d %H:%M} UTC"))
    return facts


_log = logging.getLogger(__name__)

FORMATS = ("html", "md", "json")
STDOUT = Path("-")
_PAGES = (".html", ".htm")
_NAME_BYTES = 100  # of a study's name in a file name, at most
_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|ms|min|h|d|nats|points|[kMGT])(?:\W|$))")


def render(findings: StudyAnalysis, kind: str, *, storage_options: Sequence[str] = ()) -> str:
    """Returns the report as ``html`` (one page), ``md`` or ``json`` (all the numbers).

    ``storage_options`` name the storage, for the commands to type.

    Raises:
        HpsearchError: the format is unknown.
    """
    check_format(kind)
    if kind == "json":
        return visible_json(as_numbers(findings))
    parts = sections(findings, storage_options=storage_options)
    make = page if kind == "html" else markdown
    return make(
        parts,
        subject=f"study {findings.study}",
        about=written(),
        mark=mark((findings.study, findings.environment.created)),
    )


def written() -> str:
    """Returns when and by which version a report was written."""
    return f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by hpsearch {version('hpsearch')}."


_MARK = re.compile(rb"hpsearch-report-of:[0-9a-f]{16}")
_HEAD_BYTES = 4096  # of a file, which hold its mark


def mark(*studies: tuple[str, datetime | None]) -> str:
    """Returns a text in a report that identifies its studies, each by name and creation time.

    It stands near the beginning, before anything that users can name.
    """
    pairs = sorted((name, str(created and created.isoformat())) for name, created in studies)
    names = json.dumps(pairs)
    return f"hpsearch-report-of:{hashlib.sha256(names.encode()).hexdigest()[:16]}"


def _mark_in(text: bytes) -> str | None:
    found = _MARK.search(text[:_HEAD_BYTES])
    return None if found is None else found[0].decode()


def _mark_of(path: Path) -> str | None:
    """Returns the mark of the report in a file; None if it is no report, or cannot be read."""
    try:
        with open_regular(os.path.realpath(os.path.expanduser(path))) as file:
            return _mark_in(file.read(_HEAD_BYTES))
    except OSError:
        return None


def sections(findings: StudyAnalysis, *, storage_options: Sequence[str]) -> list[Section]:
    """Returns the sections of the report in order, without those that have no content.

    ``storage_options`` name the storage, for the commands to type.
    """
    made = [
        front.answer(findings),
        front.front(findings),
        front.winners(findings, storage_options),
        effect_sections.depth(findings),
        effect_sections.optimizers(findings),
        effect_sections.curves(findings),
        effect_sections.importance(findings),
        effect_sections.attainment(findings),
        timeline(findings),
        savings(findings),
        environment(findings),
    ]
    return [section for section in made if section is not None]


def page(sections: Sequence[Section], *, subject: str, about: str, mark: str) -> str:
    """Returns the report as HTML.

    Args:
        sections: the first one is the answer; its title is the headline of the page.
        subject: the study or studies, by name.
        about: a line in the footer: when and by which version the page was written.
        mark: identifies the study or studies, see :func:`mark`; not displayed.
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
            mark=mark,
            drawn={"figures": figures, "dark": dict(DARK)} if figures else None,
            plotly=_plotly_packed() if figures else None,
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hpsearch.view.report", "page"),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # `tojson` also escapes "<", so that no text can end the script that holds it.
    environment.policies["json.dumps_kwargs"] = {"cls": PlotlyJSONEncoder, "separators": (",", ":")}
    environment.filters["units"] = lambda text: _UNIT.sub("\u00a0", text)  # keeps "5 s" on one line
    environment.filters["code_spans"] = SPAN.split  # text and code in turn
    return environment


@functools.cache
def _plotly_packed() -> str:
    """Plotly's own script, gzipped (4.8 MB become 1.5) and in base64; the page unpacks it."""
    packed = gzip.compress(get_plotlyjs().encode(), mtime=0)  # the same bytes every time
    return base64.b64encode(packed).decode()


def as_numbers(findings: StudyAnalysis) -> dict[str, object]:
    """Returns the analysis for JSON, with the spec and the study file."""
    made = mark((findings.study, findings.environment.created))
    plain: dict[str, object] = {"mark": made, **as_plain(findings)}  # first, see _HEAD_BYTES
    spec = findings.environment.spec
    savings, audit = findings.savings, findings.audit
    plain["savings"] = {**as_plain(savings), "share": savings.share}
    audit_rates = {"wronged": audit.wronged, "share": audit.share}
    plain["audit"] = {**as_plain(audit), **as_plain(audit_rates)}
    environment = {"spec": to_dict(spec), "study_file": to_toml(spec)}
    plain["environment"] = {**as_plain(findings.environment), **as_plain(environment)}
    return plain


def format_of(output: Path | None) -> str:
    """Returns the format that the suffix of a file name selects; without a suffix, a page.

    Raises:
        HpsearchError: the suffix is unknown.

    >>> format_of(Path("x.md")), format_of(Path("x.HTM")), format_of(None)
    ('md', 'html', 'html')
    """
    suffix = "" if output is None else output.suffix.lower()
    if suffix in ("", *_PAGES):
        return "html"
    if suffix[1:] in FORMATS:
        return suffix[1:]
    raise HpsearchError(
        f"-o: found {str(output)!r}, expected a name that ends in .html, .md or .json; rename it,"
        " or add --format"
    )


def check_page(output: Path) -> None:
    """Raises HpsearchError if the output is stdout, not named as a page, or cannot be written."""
    if output == STDOUT or output.suffix.lower() not in ("", *_PAGES):
        raise HpsearchError(
            f"-o: found {str(output)!r}, expected a name that ends in .html, as the output is a"
            " page; rename it, or use --json for the numbers"
        )
    check_writable(output)


def check_format(kind: str) -> None:
    """Raises HpsearchError if no format has this name."""
    if kind not in FORMATS:
        raise HpsearchError(f"--format: found {kind!r}; {nearest(kind, FORMATS)}")


def default_path(study: str, created: datetime | None, *, suffix: str = ".html") -> Path:
    """Returns the file of the study's report in the current folder, never that of another study.

    It is ``report-STUDY.html``. A digest of the study follows if its name does not fit in a file
    name, or if that file is there and is not this study's report.

    >>> str(default_path("no-such-study", None)), str(default_path("my/own: study", None))
    ('report-no-such-study.html', 'report-my-own-study-c6e422af.html')
    """
    plain = re.sub(r"[^\w.-]+", "-", study).strip("-.")
    digest = mark((study, created))[-16:-8]
    # Most file systems allow names of 255 bytes; a letter has up to four.
    short = plain.encode()[:_NAME_BYTES].decode(errors="ignore") or "study"
    path, distinct = (Path(f"report-{name}{suffix}") for name in (short, f"{short}-{digest}"))
    if short != study:
        return distinct
    if (path.is_symlink() or path.is_file()) and _mark_of(path) != mark((study, created)):
        _log.info("%s is not a report of this study, so it is left unchanged", path)
        return distinct
    return path


def write(text: str, path: Path) -> None:
    """Writes the text beside the file, then renames it: nobody ever sees half a report.

    A link is followed; a folder or a device of this name is left alone.

    Raises:
        HpsearchError: it cannot be written there, or another study's report is there.
    """
    theirs = _mark_of(path)
    if theirs is not None and theirs != _mark_in(text[:_HEAD_BYTES].encode()):
        raise HpsearchError(
            f"{path}: found a report of another study, expected a new file or a report of the"
            " same; remove it, or name another with -o"
        )
    with _translate_errors(path):
        atomic_write(_target(path), text)


def check_writable(path: Path) -> None:
    """Raises the error that :func:`write` would raise; call it before long work."""
    with _translate_errors(path):
        check_file(_target(path))


def _target(path: Path) -> Path:
    # unlike resolve(), realpath() accepts a loop of links
    target = Path(os.path.realpath(os.path.expanduser(path)))
    if target.exists() and not target.is_file():
        raise OSError(0, "it is a folder" if target.is_dir() else "it is not a file")
    return target


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise HpsearchError(
            f"cannot write {path} ({exc.strerror or exc}), expected a file in a folder that is"
            " there and can be written; name another with -o"
        ) from exc
