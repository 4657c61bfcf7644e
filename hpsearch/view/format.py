"""Values, configurations and durations as text."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence

from hpsearch.core.analysis.pareto import worthy
from hpsearch.core.analysis.pruning_stats import Savings
from hpsearch.core.analysis.statistics import MeanAndDeviation
from hpsearch.core.dimensions import BUILT_IN, Value
from hpsearch.core.objectives import OBJECTIVES, Quantity
from hpsearch.core.trial import TrialRecord
from hpsearch.errors import plural

FINE = 10_000  # images: one of them is 0.01 %, and the standard error of 99 % is 0.1 %
BARS = "▁▂▃▄▅▆▇█"
_SPELLING: Mapping[int, int | str] = {
    **str.maketrans("◀×·…━─→–" + BARS, "<x-~#->-" + "_.-=+*%#"),
    ord("±"): "+-",
    ord("°"): " deg",
}


# Characters that command a terminal, reorder text or cannot be seen; not line feed and tab, nor the
# joiners of some scripts and emoji. Lone surrogates stand for undecodable bytes of file names.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Returns the text with control and invisible characters replaced one by one.

    Names and failures in a database may come from anybody.

    >>> visible("a\x1b[2Jb\u202ec")
    'a␛[2Jb�c'
    """
    return _HIDDEN.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "�", text)


def visible_json(value: object, *, ascii_only: bool = False) -> str:
    """Returns plain data as JSON in which control and invisible characters are escaped.

    >>> visible_json({"é": "\x9b\u202e"})
    '{\\n  "é": "\\\\u009b\\\\u202e"\\n}'
    """
    text = json.dumps(value, indent=2, ensure_ascii=ascii_only, allow_nan=False)
    return _HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def encodable(text: str, encoding: str) -> str:
    """Returns the text made visible, without characters that the encoding lacks.

    >>> encodable("24×2 ◀ knee", "ascii"), encodable("24×2 ◀ knee", "utf-8")
    ('24x2 < knee', '24×2 ◀ knee')
    """
    text = visible(text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_SPELLING).encode(encoding, "replace").decode(encoding)
    return text


def format_value(name: str, value: float, *, images: int | None = None) -> str:
    """Returns the value of an objective, or of another measure, as text with its unit.

    An accuracy of 99 % or more has two decimals, in which good nets differ, unless it is 100 % or
    was counted on too few ``images`` for the second one to mean anything.

    >>> format_value("accuracy", 0.976), format_value("accuracy", 0.99312)
    ('97.6 %', '99.31 %')
    >>> format_value("accuracy", 1.0), format_value("accuracy", 0.99312, images=750)
    ('100.0 %', '99.3 %')
    >>> format_value("train_seconds", 4.312), format_value("latency_ms", 0.8234)
    ('4.31 s', '0.82 ms')
    >>> format_value("params", 147087), format_value("flops", 12_340_000)
    ('147,087', '12.3 M')
    """
    if not math.isfinite(value):
        return str(value)
    if name not in OBJECTIVES:
        return f"{value:.4g}"
    quantity = OBJECTIVES[name].quantity
    # The decimals of a share depend on how many images it was counted on.
    if quantity is Quantity.SHARE:
        is_fine = 0.99 <= value < 1 and (images is None or images >= FINE)
        return f"{100 * value:.2f} %" if is_fine else f"{100 * value:.1f} %"
    return _FORMATS[quantity](value)


def format_spread(name: str, spread: MeanAndDeviation) -> str:
    """Returns a mean and, of several, its deviation, with the measure's unit.

    >>> two = MeanAndDeviation(values=(0.96, 0.98), mean=0.97, deviation=0.0141)
    >>> format_spread("accuracy", two)
    '97.0 % ± 1.4 %'
    """
    mean = format_value(name, spread.mean)
    if spread.deviation is None or not math.isfinite(spread.deviation):
        return mean
    return f"{mean} ± {format_value(name, spread.deviation)}"


def format_seconds(seconds: float) -> str:
    """Returns a duration as text, in the unit that suits its size.

    >>> [format_seconds(s) for s in (0.043, 4.312, 43.12, 130, 11100, 200000)]
    ['0.043 s', '4.31 s', '43.1 s', '2 min 10 s', '3 h 05 min', '2 d 07 h']
    """
    # From 59.95 s on, the rounded number would be 60.0 s.
    if seconds < 59.95:
        return f"{_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24:02d} h"


def format_percent(share: float) -> str:
    """Returns a share in whole per cents.

    >>> format_percent(0.123)
    '12 %'
    """
    return f"{100 * share:.0f} %"


def format_points(share: float) -> str:
    """Returns a difference of accuracies in percentage points.

    >>> format_points(0.004), format_points(0.01)
    ('0.4 points', '1.0 points')
    """
    return f"{100 * share:.1f} points"


def format_interval(low: float | None, high: float | None) -> str:
    """Returns the 95 % interval of an accuracy; empty if it is not known.

    >>> format_interval(0.791, 0.879), format_interval(None, None)
    ('79.1–87.9 %', '')
    """
    return "" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f} %"


def _digits(value: float) -> str:
    if value >= 9.995:
        return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def _scaled(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


_FORMATS: Mapping[Quantity, Callable[[float], str]] = {
    Quantity.NATS: "{:.3f} nats".format,
    Quantity.SECONDS: format_seconds,
    Quantity.MILLISECONDS: lambda ms: (
        format_seconds(ms / 1000) if ms >= 1000 else f"{_digits(ms)} ms"
    ),
    Quantity.COUNT: "{:,.0f}".format,
    Quantity.OPERATIONS: _scaled,
}


def describe(record: TrialRecord) -> str:
    """Returns the trial's configuration in short.

    >>> from hpsearch.core.trial import State
    >>> describe(TrialRecord(number=0, state=State.COMPLETE, params={
    ...     "n_blocks": 2, "width_1": 24, "width_2": 48, "optimizer": "adamw",
    ...     "learning_rate": 0.0031, "batch_size": 64}))
    '2 blocks 24-48, adamw 3.1e-03 batch 64'
    """
    return ", ".join(part for part in (net(record), training(record)) if part)


def net(record: TrialRecord) -> str:
    """Returns the net of a configuration in short, as ``2 blocks 24-48, k3 gap``."""
    blocks, widths = shape(record)
    depth = f"{plural(blocks, 'block')} {widths}".strip() if blocks else ""
    return ", ".join(part for part in (depth, layers(record), own(record)) if part)


def own(record: TrialRecord) -> str:
    """Returns the values of custom dimensions in short, as ``depth 2, act relu``."""
    values = ((n, v) for n, v in record.params.items() if n not in BUILT_IN or n == "width")
    return ", ".join(f"{name} {spelled(value)}" for name, value in values)


def spelled(value: Value) -> str:
    """Returns a dimension's value as text.

    >>> spelled(True), spelled(0.25), spelled("relu")
    ('true', '0.25', 'relu')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def shape(record: TrialRecord) -> tuple[int, str]:
    """Returns the number of blocks (0: not known) and their widths.

    The widths are those of the resolved trial if it is stored; runs of three or more equal ones
    are counted (``64×3``). Otherwise geometric widths are given by the first and their growth.
    """
    params, spec = record.params, record.attributes.get("spec")
    model = spec.get("model") if isinstance(spec, Mapping) else None
    blocks = int(params.get("n_blocks", 0))
    if isinstance(model, Mapping) and model.get("widths"):
        widths = [int(width) for width in model["widths"]]
    else:
        names = [f"width_{block}" for block in range(1, blocks + 1)]
        widths = [int(params[name]) for name in names if name in params]
    if widths:
        runs = [(width, len(list(same))) for width, same in itertools.groupby(widths)]
        parts = [f"{w}×{n}" if n > 2 else "-".join([str(w)] * n) for w, n in runs]
        return len(widths), "-".join(parts)
    if "base_width" in params:
        return blocks, f"from {params['base_width']} ×{params.get('growth', 1):.3g}"
    return blocks, ""


def layers(record: TrialRecord) -> str:
    """Returns the kernel size, the head and ``no norm`` in short, as ``k3 gap``."""
    params = record.params
    kernel = f"k{params['kernel_size']}" if "kernel_size" in params else ""
    plain = "no norm" if params.get("batch_norm") is False else ""
    return " ".join(part for part in (kernel, str(params.get("head", "")), plain) if part)


def training(record: TrialRecord) -> str:
    """Returns the optimizer, learning rate, schedule and batch size in short."""
    params = record.params
    rate = f"{params['learning_rate']:.1e}" if "learning_rate" in params else ""
    batch = f"batch {params['batch_size']}" if "batch_size" in params else ""
    words = (str(params.get("optimizer", "")), rate, str(params.get("schedule", "")), batch)
    return " ".join(word for word in words if word)


def spoken(record: TrialRecord) -> str:
    """Returns the trial's configuration as part of a sentence.

    >>> from hpsearch.core.trial import State
    >>> spoken(TrialRecord(number=0, state=State.COMPLETE, params={
    ...     "n_blocks": 2, "width_1": 8, "width_2": 16, "kernel_size": 3, "head": "gap",
    ...     "optimizer": "adam", "learning_rate": 0.0103, "batch_size": 64}))
    'a net of 2 conv blocks (8-16 channels, kernel 3×3), trained by adam at rate 0.0103, batch 64'
    """
    params = record.params
    blocks, widths = shape(record)
    kernel, rate = params.get("kernel_size"), params.get("learning_rate")
    inner = [
        f"{widths} channels" if widths else "",
        f"kernel {kernel}×{kernel}" if kernel else "",
        "no batch norm" if params.get("batch_norm") is False else "",
        own(record),
    ]
    details = ", ".join(part for part in inner if part)
    optimizer = f"trained by {params['optimizer']}" if "optimizer" in params else ""
    parts = [
        (f"a net of {plural(blocks, 'conv block')}" if blocks else "a net")
        + (f" ({details})" if details else ""),
        optimizer + (f" at rate {rate:.3g}" if optimizer and rate is not None else ""),
        f"{params['schedule']} schedule" if params.get("schedule") else "",
        f"batch {params['batch_size']}" if params.get("batch_size") else "",
    ]
    return ", ".join(part for part in parts if part)


def listed(words: Sequence[str]) -> str:
    """Returns the words as a list within a sentence.

    >>> listed(["tpe"]), listed(["tpe", "random", "grid"])
    ('tpe', 'tpe, random and grid')
    """
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def unworthy(chosen: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Returns the trials of a front whose accuracy is too low to be useful."""
    good = worthy([record.values for record in chosen])
    return [record for i, record in enumerate(chosen) if i not in good]


def unworthy_text(poor: Sequence[TrialRecord]) -> str:
    """Returns a sentence that explains why they are on the front."""
    numbers = listed([str(record.number) for record in poor])
    one = len(poor) == 1
    return (
        f"{'Trial' if one else 'Trials'} {numbers} {'has' if one else 'have'} less than half of the"
        f" best accuracy, and {'is' if one else 'are'} on the front because nothing else is as"
        " cheap."
    )


def savings_text(saved: Savings) -> str:
    """Returns what pruning saved, for a sentence that begins with "the search".

    >>> savings_text(Savings(epochs_trained=60, epochs_full=100, seconds_saved=130.0))
    'saved 40 % of the epochs (60 of 100 trained), about 2 min 10 s of training'
    """
    if saved.epochs_trained >= saved.epochs_full:
        return "stopped nothing early"
    return (
        f"saved {100 * saved.share:.0f} % of the epochs ({saved.epochs_trained:,} of"
        f" {saved.epochs_full:,} trained), about {format_seconds(saved.seconds_saved)} of training"
    )


def sparkline(values: Sequence[float]) -> str:
    """Returns the values as a row of bars, scaled to their range; NaN and infinity as ``?``.

    >>> sparkline([1.0, 0.5, float("nan"), 0.0])
    '█▅?▁'
    """
    finite = [value for value in values if math.isfinite(value)]
    low, span = (min(finite), max(finite) - min(finite)) if finite else (0.0, 0.0)
    top = len(BARS) - 1
    return "".join(
        BARS[round((v - low) / span * top) if span else 0] if math.isfinite(v) else "?"
        for v in values
    )
