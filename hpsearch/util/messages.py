"""Messages for the user, sent through the ``hpsearch`` logger.

``INFO`` reports progress, ``WARNING`` a problem that does not end the command. The handlers of the
command line and of the Python API decide where the text goes.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Show = Callable[[str], None]

_LOGGER = logging.getLogger("hpsearch")


class MessageHandler(logging.Handler):
    """Passes the text of each log record to ``show``, which can be replaced temporarily."""

    def __init__(self, show: Show, *, level: int = logging.INFO) -> None:
        super().__init__(level)
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        """Shows the record's message.

        An error inside ``show`` reaches the caller, but not from a warning: a trial must survive a
        full disk or a closed terminal that its warning cannot be written to.
        """
        try:
            self.show(self.format(record))
        except Exception:
            if record.levelno < logging.WARNING:
                raise
            self.handleError(record)

    @contextmanager
    def showing(self, show: Show) -> Iterator[None]:
        """Passes messages to another function inside the context, such as a live view."""
        before, self.show = self.show, show
        try:
            yield
        finally:
            self.show = before


class _Receivers(MessageHandler):
    """Passes each record to the function of the innermost :func:`messages_to` around its caller."""

    def __init__(self) -> None:
        super().__init__(lambda text: _receiver.get()(text))
        self._lock, self._contexts, self._level = threading.Lock(), 0, logging.NOTSET

    def enter(self) -> None:
        """Adds the handler with the first context, and opens the logger for ``INFO``."""
        with self._lock:
            if not self._contexts:
                self._level = _LOGGER.level
                if not _LOGGER.isEnabledFor(logging.INFO):
                    _LOGGER.setLevel(logging.INFO)
                _LOGGER.addHandler(self)
            self._contexts += 1

    def leave(self) -> None:
        """Removes the handler with the last context, and restores the logger's level."""
        with self._lock:
            self._contexts -= 1
            if not self._contexts:
                _LOGGER.removeHandler(self)
                _LOGGER.setLevel(self._level)


_receiver: ContextVar[Show] = ContextVar("receiver", default=lambda text: None)
_receivers = _Receivers()


def start_thread(call: Callable[[], None], *, name: str) -> threading.Thread:
    """Starts a daemon thread whose messages reach the receiver of the caller's.

    It does not keep the process alive if it hangs.
    """
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(call,), name=name, daemon=True)
    thread.start()
    return thread


@contextmanager
def messages_to(show: Show | None) -> Iterator[None]:
    """Passes messages logged inside the context to ``show``; None changes nothing.

    They are the messages of this thread, and of threads that run in a copy of its
    ``contextvars`` context: calls in several threads do not receive each other's messages. While a
    context is open, the ``hpsearch`` logger passes on ``INFO`` and above.
    """
    if show is None:
        yield
        return
    token = _receiver.set(show)
    _receivers.enter()
    try:
        yield
    finally:
        _receivers.leave()
        _receiver.reset(token)
