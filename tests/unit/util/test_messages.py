"""Messages reach the user, and never break what they report on."""

from __future__ import annotations

import logging
import threading

import pytest

from hpsearch.util.messages import MessageHandler, messages_to

LOGGER = logging.getLogger("hpsearch.some.module")


def full_disk(text: str) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def handler():
    """A handler of the package's logger, which shows messages on a full disk."""
    package = logging.getLogger("hpsearch")
    made, before = MessageHandler(full_disk), package.level
    package.addHandler(made)
    package.setLevel(logging.INFO)
    yield made
    package.removeHandler(made)
    package.setLevel(before)


def test_a_warning_that_cannot_be_shown_breaks_nothing(handler, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    LOGGER.warning("the checkpoint was not written")


def test_an_error_of_the_function_that_shows_a_message_reaches_the_caller(handler):
    with pytest.raises(OSError, match="No space left"):
        LOGGER.info("decoding 10 images")


def test_messages_are_those_of_this_thread_and_only_inside_the_context():
    shown = []
    with messages_to(shown.append):
        LOGGER.info("%s images", 10)
        LOGGER.debug("not for users")
        other = threading.Thread(target=lambda: LOGGER.warning("of another thread"))
        other.start()
        other.join()
    LOGGER.warning("afterwards")
    assert shown == ["10 images"]


def test_without_a_function_messages_are_only_logged(caplog):
    with messages_to(None):
        LOGGER.warning("kept")
    assert caplog.messages == ["kept"]


def test_a_handler_shows_messages_elsewhere_for_a_while(handler):
    shown = []
    with handler.showing(shown.append):
        LOGGER.info("above the live view")
    assert shown == ["above the live view"]
    assert handler.show is full_disk
