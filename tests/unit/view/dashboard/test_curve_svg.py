"""A trial's curve as a picture and as a table."""

from __future__ import annotations

import csv
import io
import math
from xml.etree import ElementTree

import pytest

from hpsearch.core.trial import Epoch
from hpsearch.view.dashboard.annotations import curve_csv, curve_svg

SVG = "{http://www.w3.org/2000/svg}"


def curve_of(*accuracies: float, trained: float = 0.5) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(
            epoch=e,
            train_loss=1.0 / e,
            train_accuracy=trained,
            val_loss=2.0 / e,
            val_accuracy=accuracy,
            train_seconds=3.0,
            wall_seconds=0.5,
        )
        for e, accuracy in enumerate(accuracies, 1)
    )


def drawn(curve: tuple[Epoch, ...]) -> ElementTree.Element:
    root = ElementTree.fromstring(curve_svg(curve))
    assert not any(word in curve_svg(curve) for word in ("nan", "inf"))
    return root


def test_the_picture_has_a_point_for_each_epoch_and_higher_is_better():
    root = drawn(curve_of(0.2, 0.6, 0.9))
    _, validated = root.findall(f"{SVG}polyline")
    points = [tuple(map(float, p.split(","))) for p in validated.attrib["points"].split()]
    assert len(points) == 3
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] > points[1][1] > points[2][1]
    words = [text.text for text in root.findall(f"{SVG}text")]
    assert {"20 %", "100 %", "1", "2", "3", "epoch", "validation accuracy"} <= set(words)


@pytest.mark.parametrize(
    "curve",
    [
        curve_of(0.5),
        curve_of(1.0, 1.0, trained=1.0),
        curve_of(0.0, trained=0.0),
        curve_of(math.nan, 0.4, trained=math.nan),
        curve_of(math.nan, trained=math.nan),
        curve_of(*(0.9 + 0.0001 * e for e in range(300)), trained=0.9),
    ],
    ids=["one epoch", "perfect", "nothing right", "in part unknown", "unknown", "long and flat"],
)
def test_every_curve_is_drawn_within_the_picture(curve):
    root = drawn(curve)
    for line in root.findall(f"{SVG}polyline"):
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 640
            assert 0 <= y <= 400
    words = [text.text for text in root.findall(f"{SVG}text")]
    assert len(words) < 40
    assert max(float(word[:-2]) for word in words if word.endswith(" %")) <= 100


def test_the_table_holds_every_number_unchanged():
    curve = curve_of(0.123456789, 0.6)
    rows = list(csv.DictReader(io.StringIO(curve_csv(curve))))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert float(rows[0]["val_accuracy"]) == 0.123456789
    assert float(rows[1]["val_loss"]) == 1.0
