"""Messages reach the user, and never break what they report on."""

from __future__ import annotations

import contextvars
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


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


def test_messages_are_received_inside_the_context_and_from_threads_that_copy_it():
    shown = []
    with messages_to(shown.append):
        LOGGER.info("%s images", 10)
        LOGGER.debug("not for users")
        in_thread(LOGGER.warning, "of a thread that belongs to another call")
        in_thread(contextvars.copy_context().run, LOGGER.warning, "no heartbeat")
    LOGGER.warning("afterwards")
    assert shown == ["10 images", "no heartbeat"]


def test_calls_in_several_threads_receive_their_own_messages_whichever_ends_first():
    package = logging.getLogger("hpsearch")
    before, first, second = package.level, [], []
    entered, left = threading.Event(), threading.Event()

    def other_call():
        with messages_to(second.append):
            entered.set()
            left.wait(60)
            LOGGER.info("of the second")

    thread = threading.Thread(target=other_call)
    with messages_to(first.append):
        thread.start()
        assert entered.wait(60)
        LOGGER.info("of the first")
    left.set()
    thread.join()
    assert (first, second) == (["of the first"], ["of the second"])
    assert package.level == before


def test_nested_calls_receive_a_message_once():
    outer, inner = [], []
    with messages_to(outer.append), messages_to(inner.append):
        LOGGER.info("once")
    assert (outer, inner) == ([], ["once"])


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
