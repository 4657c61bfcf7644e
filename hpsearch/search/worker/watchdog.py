"""Signals, and the watchdog of a training that hangs.

A training is asked to stop by a :class:`StopSignal`, which it polls. One that hangs does not poll:
a thread interrupts it, and as a last resort gives its trial up and ends the process.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import select
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from types import FrameType

from hpsearch.core.spec import SearchSpec
from hpsearch.errors import SpecError
from hpsearch.search.storage.database_file import fold_all
from hpsearch.search.worker.work_loop import Overdue, StopSignal
from hpsearch.util.messages import start_thread

_log = logging.getLogger(__name__)

INTERRUPT_SECONDS = 3.0  # after its time is up, until a training is interrupted
END_SECONDS = 8.0  # after its time is up, until the process is ended; a pool waits 25 s in all
STALL_SECONDS = 300.0  # without a step, until that is reported
HARD_SECONDS = 60.0  # after a limit, until a process ends itself whose threads cannot run
REHEARSAL_SECONDS = 60.0  # for the first batch of custom code, at least
LOCKED_SECONDS = 300.0  # until a worker ends itself whose threads cannot run
_FRAMES = 8  # of a hanging training that are stored, the innermost ones
_TICK_SECONDS = 0.5
_REARM_SECONDS = 5.0
_ECHO_SECONDS = 5.0  # the parent may be reading a large study before it passes a signal on

HUNG = 75  # exit code of a pool's worker whose training hung (EX_TEMPFAIL: starting again helps)
_INVALID, _INTERRUPTED = 2, 130  # exit codes of a command

# A signal that nothing else uses, to interrupt the main thread. Windows has none: a training that
# hangs there ends with its process.
_INTERRUPT: int | None = getattr(signal, "SIGRTMAX", getattr(signal, "SIGUSR2", None))
_HANGUP: int | None = getattr(signal, "SIGHUP", None)


@contextmanager
def listening(stop: StopSignal) -> Iterator[None]:
    """Takes the first Ctrl-C, SIGTERM or SIGHUP as a request to stop; runs the watchdog.

    The second Ctrl-C or SIGTERM ends at once. SIGHUP, of a terminal that was closed, never does;
    if it is ignored, it stays so, as nohup wants. For the main thread.
    """
    with _signal_numbers() if stop.exits else nullcontext() as pipe:
        watchdog = Watchdog(stop=stop, main=threading.get_ident(), pipe=pipe)
        handlers: dict[int, Callable[[int, FrameType | None], None]]
        handlers = {signal.SIGINT: watchdog.receive, signal.SIGTERM: watchdog.receive}
        if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
            handlers[_HANGUP] = watchdog.receive
        if _INTERRUPT is not None:
            handlers[_INTERRUPT] = watchdog.interrupt
        before = {number: signal.signal(number, call) for number, call in handlers.items()}
        try:
            with watchdog.running():
                yield
        finally:
            for number, handler in before.items():
                # None: one that C code had set
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def watched(stop: StopSignal) -> Iterator[None]:
    """Runs the watchdog in a thread that receives no signals: it can only report and give up."""
    with Watchdog(stop=stop).running():
        yield


@contextmanager
def rehearsing(stop: StopSignal, search: SearchSpec) -> Iterator[None]:
    """Limits the first batches of a training, before any trial, to the time of a trial or run.

    A minute is granted at least: the code may have to be imported and compiled.

    Raises:
        SpecError: they took longer.
    """
    limits = [each for each in (search.trial_timeout, search.timeout) if each is not None]
    limit = max(REHEARSAL_SECONDS, min(limits)) if limits else None
    with stop.limiting("the first batch", limit):
        try:
            with stop.interruptible():
                yield
        except Overdue:
            if not stop.is_over_limit:
                raise KeyboardInterrupt from None
            raise SpecError(
                f"the first batch of a trial was not done after {limit:g} s, expected less than"
                " the study's limits of time; fix the code of model and training, or raise"
                " search.trial_timeout and --timeout"
            ) from None


@contextmanager
def _signal_numbers() -> Iterator[int | None]:
    """A pipe from which the numbers of signals are read, whatever the main thread does."""
    if os.name != "posix":
        yield None
        return
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def _leave_pipe() -> None:
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)


# A process that user code forks would write its signals to the pipe of its parent.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_pipe)


@dataclass(slots=True, kw_only=True)
class Watchdog:
    """Receives signals in the main thread, and looks after its training from another one.

    ``main`` is the thread that can be interrupted, None if it receives no signals. ``pipe`` gives
    the numbers of the signals that arrive.
    """

    stop: StopSignal
    main: int | None = None
    pipe: int | None = None
    _terminals: list[int] = field(default_factory=lambda: [n for n in range(3) if os.isatty(n)])
    _signalled_at: float = -math.inf
    _arrived: Counter[int] = field(default_factory=Counter)
    _handled: Counter[int] = field(default_factory=Counter)
    _handled_early: Counter[int] = field(default_factory=Counter)  # before the main thread did
    _unhandled_since: float | None = None
    _task: str | None = None
    _steps: int = 0
    _is_reported: bool = False
    _late_since: float | None = None
    _armed_until: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Looks twice a second inside the context, from a thread of its own."""
        done = threading.Event()

        def look_again() -> None:
            while not done.is_set():
                self._wait(done)
                self.look()
            if self._armed_until is not None:
                faulthandler.cancel_dump_traceback_later()

        # At once at the beginning of each trial, whose code may hold the lock before the next look.
        self.stop.on_limit = self.arm
        self.arm()
        thread = start_thread(look_again, name="watchdog")
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.stop.on_limit = lambda: None

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """Interrupts a training whose time is up; its own signal calls this in the main thread."""
        # Asked here, where it cannot change any more: a transaction is never interrupted.
        if self.stop.is_interruptible and self.stop.is_overdue:
            raise Overdue
        if self.stop.raises and self.stop.is_overdue:
            raise KeyboardInterrupt

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handles a signal, in the main thread."""
        if self._handled_early[number]:
            self._handled_early[number] -= 1
        else:
            self._handled[number] += 1
            if not self._take(number):
                return
        if self.stop.raises:
            raise KeyboardInterrupt

    def _take(self, number: int) -> bool:
        """Records a signal; returns whether it is the first. A second one may end the process."""
        stop = self.stop
        if number == _HANGUP:
            self._drop_terminals()
        if not stop.signals:
            stop.signals.append(number)
            self._signalled_at = stop.clock()
            return True
        if self._is_echo(number):
            return False
        stop.on_second()
        if not stop.exits:
            raise KeyboardInterrupt
        _exit(128 + number, "ended at once")  # the next worker recovers the trial
        return False

    def _is_echo(self, number: int) -> bool:
        """Whether a later signal repeats the first: nobody asked twice."""
        if number == _HANGUP:
            return True
        # A supervisor may signal a whole process group, whose parent then passes its signal on; a
        # session that ends sends SIGHUP and SIGTERM.
        may_echo = self.stop.clock() - self._signalled_at < _ECHO_SECONDS
        firsts = [_HANGUP] if self.stop.parent is None else [_HANGUP, signal.SIGTERM]
        return number == signal.SIGTERM and may_echo and self.stop.signals[0] in firsts

    def _drop_terminals(self) -> None:
        """Discards output to a terminal that was closed, where a write would raise an error."""
        for number in [each for each in self._terminals if not os.isatty(each)]:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, number)
                os.close(null)
            self._terminals.remove(number)

    def _wait(self, done: threading.Event) -> None:
        """Waits for the next look; counts the signals that arrive meanwhile."""
        if self.pipe is None:
            done.wait(_TICK_SECONDS)
            return
        ready, _, _ = select.select([self.pipe], [], [], _TICK_SECONDS)
        if ready:
            self._arrived.update(os.read(self.pipe, 4096))
            done.wait(_TICK_SECONDS)  # the main thread comes first

    def look(self) -> None:
        """Reports a training that stands still; interrupts one that is late, then ends it."""
        stop, now = self.stop, self.stop.clock()
        self._drop_terminals()
        self._take_signals(now)
        self.arm()
        self._report_stall(now)
        is_late = (stop.is_interruptible or stop.raises) and stop.is_overdue
        if not is_late:
            self._late_since = None
            return
        self._late_since = self._late_since or now
        late = now - self._late_since
        if late >= END_SECONDS:
            self._late_since = math.inf  # once
            self._end()
        elif late >= INTERRUPT_SECONDS and self.main is not None and _INTERRUPT is not None:
            # A real signal, which also ends a system call such as that of time.sleep.
            signal.pthread_kill(self.main, _INTERRUPT)

    def _report_stall(self, now: float) -> None:
        stop = self.stop
        if stop.task is not self._task or stop.steps != self._steps:
            self._task, self._steps, self._is_reported = stop.task, stop.steps, False
            stop.idle_since = now
        if stop.task is None or self._is_reported or now - stop.idle_since < STALL_SECONDS:
            return
        self._is_reported = True
        _log.warning("%s: no step for %.0f min", stop.task, (now - stop.idle_since) / 60)

    def _take_signals(self, now: float) -> None:
        """Takes signals that the main thread has not handled for a second: C code keeps it busy."""
        caught = [n for n in self._arrived if signal.getsignal(n) == self.receive]
        behind = [n for n in caught for _ in range(self._arrived[n] - self._handled[n])]
        if not behind:
            self._unhandled_since = None
            return
        self._unhandled_since = self._unhandled_since or now
        if now - self._unhandled_since >= 2 * _TICK_SECONDS:
            for number in behind:
                self._handled[number] += 1
                self._handled_early[number] += 1
                self._take(number)

    def arm(self) -> None:
        """Has the process end itself, with its traceback, if this thread cannot run any more.

        C code may hold Python's lock for ever; the timer of faulthandler does not need it.
        """
        now = self.stop.clock()
        limit = self._hard_limit(now) if self.stop.exits else None
        if limit is None:
            if self._armed_until is not None:
                faulthandler.cancel_dump_traceback_later()
        elif self._armed_until is None or abs(limit - self._armed_until) > _REARM_SECONDS:
            _end_later(limit - now)
        else:
            return
        self._armed_until = limit

    def _hard_limit(self, now: float) -> float | None:
        """When the process must have ended even if no thread of it can run; None: never."""
        stop = self.stop
        ends = [at for at in (stop.limit_at, stop.deadline) if at is not None]
        limits = [max(now, min(ends)) + HARD_SECONDS] if ends else []
        # Its lease has been void for long then, and its parent starts another worker.
        return min([*limits, *([now + LOCKED_SECONDS] if stop.parent else [])], default=None)

    def _end(self) -> None:
        """Gives the current task up, and ends the process if it may: the training hangs."""
        stop = self.stop
        abandon, steps = stop.abandon, stop.steps
        if not (stop.is_interruptible or stop.raises) or steps != self._steps:
            return  # the main thread has gone on meanwhile
        what, code = stop.task or "the preparation", _INTERRUPTED
        if stop.is_over_limit or (stop.timed_out and not stop.signals):
            code = _INVALID if stop.parent is None else HUNG
        if stop.exits:
            _end_later(HARD_SECONDS / 2)  # the database may hang, too
        try:
            frame = sys._current_frames().get(self.main or 0)
            stack = traceback.format_stack(frame, limit=_FRAMES) if frame is not None else []
            abandon("".join(stack))
        except BaseException as exc:  # nothing may keep the process alive
            _log.warning("%s keeps its lease: %s", what, exc)
        if not stop.exits:
            _log.warning("%s hangs and cannot be interrupted; the call returns when it does", what)
            return
        again = "; run it again to go on" if stop.parent is None else ""
        _log.warning("%s hangs and cannot be interrupted, so this process ends%s", what, again)
        _exit(code)


def _end_later(seconds: float) -> None:
    """Ends the process in that many seconds, whatever its threads do by then."""
    with suppress(OSError, ValueError):  # stderr may be closed
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)


def _exit(code: int, message: str = "") -> None:
    """Ends the process at once, without the cleanup that a training that hangs would block."""
    with suppress(OSError, ValueError):
        if sys.stderr.isatty():  # show the cursor, which a live view hid
            sys.stderr.write(f"\x1b[?25h\n{message}\n" if message else "\x1b[?25h")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    fold_all()  # else the newest trials would be in SQLite's log alone
    os._exit(code)
