"""The live view and the plain log show the course of a run."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace

import pytest
from rich.console import Console

from hpsearch.core.trial import Epoch, State, TrialRecord
from hpsearch.view.terminal.live import LiveView, PlainLog, getting_ready, view_for
from hpsearch.view.terminal.screen import FrontPanel, Snapshot, draw

OBJECTIVES = ("accuracy", "train_seconds")
PARAMS = {
    "n_blocks": 3,
    "width_1": 24,
    "width_2": 48,
    "width_3": 96,
    "optimizer": "adamw",
    "learning_rate": 0.0031,
}


class Screen:
    """A terminal: what stands on it after the control codes that Rich writes were obeyed."""

    def __init__(self, *, width: int = 80, height: int = 24) -> None:
        self.stream = io.StringIO()
        self.console = Console(
            file=self.stream, force_terminal=True, width=width, height=height, _environ={}
        )

    @property
    def lines(self) -> list[str]:
        rows, row, column = [""], 0, 0
        for code in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.stream.getvalue()):
            if code == "\n":
                row, column = row + 1, 0
                rows += [""] * (row == len(rows))
            elif code == "\r":
                column = 0
            elif code.endswith("A") and code.startswith("\x1b"):
                row -= int(code[2:-1] or 1)
            elif code == "\x1b[2K":
                rows[row] = ""
            elif not code.startswith("\x1b"):
                rows[row] = (
                    rows[row][:column].ljust(column) + code + rows[row][column + len(code) :]
                )
                column += len(code)
        return [row.rstrip() for row in rows]

    @property
    def told(self) -> str:
        return "\n".join(self.lines)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def epoch(number: int) -> Epoch:
    return Epoch(
        epoch=number,
        train_loss=1.0,
        train_accuracy=0.7,
        val_loss=0.3124,
        val_accuracy=0.912,
        train_seconds=4.312,
        wall_seconds=1.0,
    )


def complete(number: int, *, accuracy: float = 0.976, seconds: float = 4.312) -> TrialRecord:
    return TrialRecord(
        number=number,
        state=State.COMPLETE,
        params=PARAMS,
        values={"accuracy": accuracy, "train_seconds": seconds},
    )


def pruned(number: int) -> TrialRecord:
    curve = (epoch(1), epoch(2))
    return TrialRecord(
        number=number,
        state=State.PRUNED,
        params=PARAMS,
        curve=curve,
        reason="loss 0.9 after epoch 2 is above 0.5",
    )


def failed(number: int) -> TrialRecord:
    return TrialRecord(number=number, state=State.FAILED, params=PARAMS, reason="OSError: [x] full")


def live(
    screen: Screen,
    *,
    records=(),
    stopping=lambda: False,
    clock=time.monotonic,
    target: int = 10,
) -> LiveView:
    return LiveView(
        screen.console,
        title="quickstart · mnist5k · cpu",
        target=target,
        epochs=8,
        objectives=OBJECTIVES,
        records=records,
        stopping=stopping,
        clock=clock,
    )


def test_a_trial_on_its_way_is_shown_with_its_epochs():
    screen = Screen()
    with live(screen) as view:
        view.started(7, PARAMS, {"params": 147087.0})
        view.refresh()
        assert "epoch 0/8" in screen.told
        for number in (1, 2, 3):
            view.trained(7, epoch(number))
        view.refresh()
        assert screen.lines[0] == "quickstart · mnist5k · cpu"
        assert "running  trial 7  3 blocks 24-48-96, adamw 3.1e-03" in screen.told
        assert "epoch 3/8  accuracy 91.2 %  4.31 s  val_loss 0.312" in screen.told


def test_counts_and_front_grow_and_the_knee_is_marked_in_words():
    screen = Screen()
    with live(screen) as view:
        for record in (complete(0), complete(1, accuracy=0.9, seconds=1.0), pruned(2), failed(3)):
            view.started(record.number, PARAMS, {})
            view.ended(record)
        view.refresh()
        assert "3/10" in screen.told
        assert "2 complete  1 pruned  1 failed" in screen.told
        assert "front    2 trials" in screen.told
        marked = [line for line in screen.lines if "◀ knee" in line]
        assert len(marked) == 1
        assert marked[0].split()[0] == "0"
        assert "running" not in screen.told
        assert "last     trial 3  failed: OSError: [x] full" in screen.told


def test_a_failure_and_a_note_stay_above_the_picture():
    screen = Screen()
    with live(screen) as view:
        view.ended(failed(3))
        view.show_message("[bold] is text")
        view.refresh()
    assert screen.lines[0].startswith("trial 3  failed: OSError: [x] full")
    assert screen.lines[1] == "[bold] is text"


def test_a_trial_that_is_handed_back_stays_above_the_picture():
    screen = Screen()
    with live(screen) as view:
        view.started(4, PARAMS, {})
        view.ended(replace(pruned(4), state=State.WAITING, reason=None))
    assert screen.lines[0].startswith("trial 4  paused after epoch 2, will resume")


def test_ctrl_c_is_acknowledged_at_once():
    screen, signals = Screen(), []
    with live(screen, stopping=lambda: bool(signals)) as view:
        view.started(4, PARAMS, {})
        view.refresh()
        assert "stopping" not in screen.told
        signals.append("SIGINT")
        view.refresh()
        assert "stopping after this epoch; Ctrl-C again stops at once" in screen.told


def test_what_the_terminal_echoes_of_ctrl_c_fits_beside_the_last_line():
    screen = Screen(width=60)
    with live(screen, records=[complete(i, seconds=1.0 + i) for i in range(3)]) as view:
        view.refresh()
        drawn = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.stream.getvalue())
    assert max(map(len, drawn.split("\n"))) == 60 - len("^C")


def test_one_line_remains_and_the_cursor_comes_back():
    screen = Screen()
    with live(screen, records=[complete(0)]) as view:
        view.started(1, PARAMS, {})
        view.ended(pruned(1))
        view.refresh()
    assert [line for line in screen.lines if line] == [
        "2 of 10 trials:  1 complete  1 pruned  0 failed"
    ]
    assert screen.stream.getvalue().rfind("\x1b[?25h") > screen.stream.getvalue().rfind("\x1b[?25l")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_restores_the_terminal_and_goes_on(error):
    screen = Screen()

    def run() -> None:
        with live(screen) as view:
            view.started(1, PARAMS, {})
            raise error

    with pytest.raises(error):
        run()
    assert "0 of 10 trials" in screen.told
    assert screen.stream.getvalue().rfind("\x1b[?25h") > screen.stream.getvalue().rfind("\x1b[?25l")


def test_the_time_left_is_the_recent_pace_times_the_trials_left():
    screen, clock = Screen(), Clock()
    with live(screen, records=[complete(0), complete(1)], clock=clock) as view:
        view.refresh()
        assert "left" not in screen.told
        for number in (2, 3, 4, 5):
            clock.now += 20.0
            view.ended(failed(number + 90))
            view.ended(complete(number))
        view.refresh()
        assert "6/10  1 min 20 s left" in screen.told
        clock.now += 15.0
        view.refresh()
        assert "6/10  1 min 05 s left" in screen.told


def test_the_view_draws_by_itself_and_only_what_has_changed():
    screen = Screen()
    with live(screen) as view:
        view.started(1, PARAMS, {})
        view.refresh()
        before = len(screen.stream.getvalue())
        view.refresh()
        time.sleep(0.6)
        assert len(screen.stream.getvalue()) == before
        view.trained(1, epoch(1))
        deadline = time.monotonic() + 600
        while "epoch 1/8" not in screen.told and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "epoch 1/8" in screen.told


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("height", [5, 8, 14, 24])
def test_the_picture_keeps_within_the_terminal(width, height):
    screen = Screen(width=width, height=height)
    trials = [complete(i, accuracy=0.5 + i / 100, seconds=1.0 + i) for i in range(20)]
    with live(screen, records=trials, target=30) as view:
        view.ended(pruned(20))
        view.started(21, PARAMS, {})
        view.trained(21, epoch(1))
        view.refresh()
        assert len(screen.lines) < height
        assert max(map(len, screen.lines)) <= width
        assert "21/30" in screen.told
        if height == 24:
            assert "front    13 of 20 trials" in screen.told
            assert "◀ knee" in screen.told


def test_trials_of_other_workers_are_shown_once_known():
    screen = Screen()
    elsewhere = TrialRecord(number=4, state=State.RUNNING, params=PARAMS, curve=(epoch(1),))
    with live(screen, records=[elsewhere]) as view:
        view.started(5, PARAMS, {})
        view.trained(5, epoch(2))
        view.refresh()
        assert "trial 4" not in screen.told
        stale = TrialRecord(number=5, state=State.RUNNING, params=PARAMS)
        view.sync([complete(0), complete(1), elsewhere, stale])
        view.refresh()
        assert "2/10" in screen.told
        assert "running  trial 4   epoch 1/8" in screen.told
        assert "         trial 5   epoch 2/8" in screen.told


def test_many_running_trials_leave_room_for_the_rest():
    running = tuple(TrialRecord(number=i, state=State.RUNNING, params=PARAMS) for i in range(40))
    picture = Snapshot(
        title="",
        target=100,
        epochs=8,
        counts={"complete": 0, "pruned": 0, "failed": 0},
        time_left="",
        running=running,
        last=None,
        front=FrontPanel([complete(99)], objectives=OBJECTIVES),
    )
    screen = Screen(height=24)
    screen.console.print(draw(picture, width=80, height=24))
    assert "and 34 more" in screen.told
    assert "◀ knee" in screen.told


def plain(encoding: str = "utf-8", **options) -> tuple[PlainLog, io.TextIOWrapper]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n", write_through=True)
    log = PlainLog(Console(file=stream, width=80), target=100, objectives=OBJECTIVES, **options)
    return log, stream


def told_by(stream: io.TextIOWrapper) -> list[str]:
    return stream.buffer.getvalue().decode(stream.encoding).splitlines()


def test_the_plain_log_has_one_line_for_each_trial():
    log, stream = plain(records=[complete(0), pruned(1), failed(2)])
    back = TrialRecord(number=6, state=State.WAITING, curve=(epoch(1),), reason="Ctrl-C")
    with log:
        log.show_message("a control trial: it is never pruned, whatever [its] loss")
        log.started(3, PARAMS, {})
        log.trained(3, epoch(1))
        for record in (complete(3), pruned(4), failed(5), back):
            log.ended(record)
    net = "[3 blocks 24-48-96, adamw 3.1e-03]"
    assert told_by(stream) == [
        "a control trial: it is never pruned, whatever [its] loss",
        f"  3/100  trial 3  complete  accuracy 97.6 %  train_seconds 4.31 s  {net}",
        f"  4/100  trial 4  pruned: loss 0.9 after epoch 2 is above 0.5  {net}",
        f"  4/100  trial 5  failed: OSError: [x] full  {net}",
        "  4/100  trial 6  paused after epoch 1, will resume: Ctrl-C",
    ]


def test_the_plain_log_counts_the_trials_of_other_workers():
    log, stream = plain()
    log.sync([complete(0), complete(1)])
    log.ended(complete(1))
    assert told_by(stream)[0].startswith("  2/100  trial 1  complete")


def test_the_plain_log_is_safe_in_ascii_and_keeps_a_reason_on_one_line():
    log, stream = plain(encoding="ascii")
    log.show_message("24×2 · naïve …")
    log.ended(TrialRecord(number=0, state=State.FAILED, reason="first\nsecond"))
    assert told_by(stream) == ["24x2 - na?ve ~", "  0/100  trial 0  failed: first second"]


def test_the_view_fits_the_console():
    options = {"title": "", "target": 1, "epochs": 1, "objectives": OBJECTIVES, "records": []}
    assert isinstance(view_for(Screen().console, **options), LiveView)
    assert isinstance(view_for(Console(file=io.StringIO()), **options), PlainLog)
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(view_for(dumb, **options), PlainLog)


def test_the_plain_log_prints_the_count_that_is_stored_with_the_end():
    log, stream = plain(records=[complete(0)])
    before = {"before": {"counted": 7, "failed": 1}}
    for record in (complete(9), failed(10)):
        log.ended(replace(record, attributes={**record.attributes, **before}))
    counts = [line.split("/")[0].strip() for line in told_by(stream)]
    assert counts == ["8", "7"]


def test_messages_while_a_study_is_prepared_stay_and_the_sign_of_work_goes():
    screen = Screen()
    with getting_ready(screen.console) as tell:
        tell("decoding [120] images")
        assert screen.lines[0] == "decoding [120] images"
        assert screen.lines[1].endswith(" loading PyTorch and the data")
    assert [line for line in screen.lines if line] == ["decoding [120] images"]


def test_no_sign_of_work_is_written_into_a_file():
    stream = io.StringIO()
    with getting_ready(Console(file=stream)) as tell:
        tell("decoding " + "images " * 30)
    assert stream.getvalue() == "decoding " + "images " * 30 + "\n"
