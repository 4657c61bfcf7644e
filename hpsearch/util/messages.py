"""Messages for the user, sent through the ``hpsearch`` logger.

``INFO`` reports progress, ``WARNING`` a problem that does not end the command. The handlers of the
command line and of the Python API decide where the text goes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[str], None]

_LOGGER = logging.getLogger("hpsearch")
_LOGGER.addHandler(logging.NullHandler())  # a library prints nothing by itself


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


@contextmanager
def messages_to(show: Show | None) -> Iterator[None]:
    """Passes the messages of this thread to ``show`` inside the context; None changes nothing.

    Messages of ``INFO`` and above are passed even if the ``hpsearch`` logger has a higher level.
    """
    if show is None:
        yield
        return
    handler, thread = MessageHandler(show), threading.get_ident()
    handler.addFilter(lambda record: record.thread == thread)
    before = _LOGGER.level
    if not _LOGGER.isEnabledFor(logging.INFO):
        _LOGGER.setLevel(logging.INFO)
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(before)
