"""Guessing the dashboard's password: over real HTTP, by a clock that the test holds."""

import base64
import contextlib
import http.client
import threading

import pytest
import waitress

from hpsearch.view.dashboard import auth as braking
from hpsearch.view.dashboard.auth import Login, LoginThrottle, with_login


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"in"]


@pytest.fixture
def site():
    """Asks a server with a login: ``ask(password)`` gives the status and the wait; its clock."""
    clock = Clock()
    app = with_login(page, Login(user="ann", password="psst"), throttle=LoginThrottle(clock=clock))
    server = waitress.create_server(app, host="127.0.0.1", port=0, threads=4)

    def serve():
        with contextlib.suppress(OSError):  # its socket is closed at the end
            server.run()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def ask(password=None, **headers):
        if password is not None:
            login = base64.b64encode(f"ann:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", server.effective_port, timeout=10)
        ) as connection:
            connection.request("GET", "/", headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("Retry-After")

    yield ask, clock
    server.close()
    thread.join(timeout=5)


def test_each_wrong_attempt_after_the_fifth_has_to_wait_twice_as_long(site):
    ask, clock = site
    assert [ask("guess") for _ in range(5)] == [(401, None)] * 5

    for seconds in (1, 2, 4, 8):
        assert ask("guess") == (429, str(seconds))
        clock.now += seconds - 0.5
        assert ask("psst") == (429, "1")  # the right one is not looked at
        clock.now += 0.5
        assert ask("guess") == (401, None)
    assert ask("psst") == (429, "16")
    clock.now += 16
    assert ask("psst") == (200, None)
    assert [ask("guess") for _ in range(4)] == [(401, None)] * 4  # cleared
    assert ask("psst") == (200, None)


def test_neither_a_first_visit_nor_a_header_counts(site):
    ask, _ = site

    assert [ask() for _ in range(9)] == [(401, None)] * 9
    assert ask("psst") == (200, None)
    for n in range(5):
        assert (
            ask("guess", **{"X-Forwarded-For": f"192.0.2.{n}", "Forwarded": f"for={n}"})[0] == 401
        )
    assert ask("guess", **{"X-Forwarded-For": "192.0.2.99"}) == (429, "1")


def test_a_malformed_login_is_an_attempt(site):
    ask, _ = site

    told = [ask(Authorization="Bearer x"), ask(Authorization="Basic é".encode("latin-1"))]
    told += [ask(Authorization="Basic ===") for _ in range(3)]
    assert told == [(401, None)] * 5
    assert ask(Authorization="Basic ===")[0] == 429


def test_many_guesses_at_once_are_no_more_than_one_after_another(site):
    ask, _ = site
    told = []
    threads = [threading.Thread(target=lambda: told.append(ask("guess"))) for _ in range(20)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(status for status, _ in told) == [401] * 5 + [429] * 15


def test_no_wait_is_longer_than_five_minutes():
    clock = Clock()
    throttle = LoginThrottle(clock=clock)
    for _ in range(3000):
        wait = throttle.attempt("192.0.2.1", is_right=False)
        assert wait == 0.0
        clock.now += 300
    assert throttle.attempt("192.0.2.1", is_right=True) == 0.0
    assert len(throttle) == 0


def test_an_address_does_not_answer_for_another_unless_it_is_of_its_network():
    throttle = LoginThrottle(clock=Clock())
    for _ in range(5):
        throttle.attempt("192.0.2.1", is_right=False)
        throttle.attempt("2001:db8:0:1::1", is_right=False)

    waits = ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8:0:1::ffff", "2001:db8:0:1::1%eth0"]
    assert [throttle.attempt(address, is_right=True) for address in waits] == [1.0] * 4
    others = ["192.0.2.2", "2001:db8:0:2::1", "", "/run/socket"]
    assert [throttle.attempt(address, is_right=True) for address in others] == [0.0] * 4


def test_the_oldest_addresses_are_forgotten(monkeypatch):
    monkeypatch.setattr(braking, "MOST_ADDRESSES", 3)
    throttle = LoginThrottle(clock=Clock())
    for _ in range(5):
        throttle.attempt("192.0.2.1", is_right=False)

    for last in (2, 3, 4, 5):
        throttle.attempt(f"192.0.2.{last}", is_right=False)

    assert len(throttle) == 3
    assert throttle.attempt("192.0.2.1", is_right=False) == 0.0
