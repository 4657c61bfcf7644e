"""Training times estimated from the times of single steps."""

import sys
import time

import pytest
import torch

from hpsearch.nn.training.step_timer import StepTimer, estimate

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([2.0], 20.0),
        ([9.0, 2.0], 20.0),
        ([50.0] * 10 + [2.0] * 30, 20.0),
        ([2.0] * 60 + [70.0] * 20, 20.0),
    ],
)
def test_the_estimate_ignores_warm_up_and_hiccups(seconds, expected):
    assert estimate(seconds, 10) == pytest.approx(expected)


def test_the_clock_times_steps_and_goes_on_where_another_stopped():
    clock = StepTimer(CPU, step_seconds=[1.0, 1.0])
    clock.start()
    clock.stop()
    assert clock.step_seconds[:2] == [1.0, 1.0]
    assert 0 < clock.step_seconds[2] < 0.1
    assert clock.estimate(100) > 0


@pytest.mark.skipif(sys.platform == "win32", reason="its processor clock ticks every 16 ms")
def test_the_clock_stops_while_another_process_has_the_core():
    clock = StepTimer(CPU)
    clock.start()
    time.sleep(0.2)
    clock.stop()
    assert clock.step_seconds[0] < 0.1


def test_the_clock_forgets_old_steps_of_a_long_training():
    clock = StepTimer(CPU, step_seconds=[5.0] * 10 + [3.0] * 30_000 + [1.0] * 10_000)
    assert clock.estimate(7) == 7.0
    assert len(clock.step_seconds) == 10_010
