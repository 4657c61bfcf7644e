"""Which differences are excused when a trial is trained again."""

from __future__ import annotations

import pytest

from hpsearch.core.trial import State, TrialRecord
from hpsearch.search.jobs.confirm import excuse

ORIGIN = {
    "device": "cpu",
    "processor": "cpu: a processor",
    "threads": 2,
    "versions": {"torch": "2.14.1"},
}


@pytest.mark.parametrize(
    ("origin", "history", "expected"),
    [
        ({}, [], None),
        ({}, [{"epochs": 0}], None),
        (
            {},
            [{"epochs": 0}, {"epochs": 3}],
            "its first epochs may have been trained on another machine",
        ),
        ({"threads": 1}, [], "processor, threads or torch differ from the record's"),
        (
            {"versions": {"torch": "2.9"}},
            [],
            "processor, threads or torch differ from the record's",
        ),
    ],
)
def test_only_a_training_of_the_same_kind_must_be_the_same_to_the_last_bit(
    origin, history, expected
):
    attributes = {"origin": {**ORIGIN, **origin}, "history": history}
    record = TrialRecord(number=0, state=State.COMPLETE, params={}, attributes=attributes)
    assert excuse(record, ORIGIN) == expected


def test_a_gpu_need_not_repeat_itself():
    origin = {**ORIGIN, "device": "cuda", "processor": "cuda: a GPU"}
    record = TrialRecord(
        number=0, state=State.COMPLETE, params={}, attributes={"origin": origin, "history": []}
    )
    assert excuse(record, origin) == "a GPU sums numbers in another order each time"
