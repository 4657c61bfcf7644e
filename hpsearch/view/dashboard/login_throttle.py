"""A brake on guessing: who was wrong several times has to wait, longer each time."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE = 5  # wrong attempts in a row before the first wait
LONGEST_SECONDS = 300.0  # of a wait: 288 guesses a day
MOST_ADDRESSES = 10_000  # that are remembered


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of an address: its wrong attempts in a row, and until when it has to wait."""

    wrong: int = 0
    until: float = 0.0


class LoginThrottle:
    """Counts the wrong attempts of each address, in bounded memory; safe in many threads.

    The fifth in a row has to be followed by a second of waiting, each further one by twice as
    long, up to five minutes. An attempt during the wait is not looked at and costs nothing, a
    right one afterwards clears the address. When there are too many addresses, the one whose last
    attempt lies farthest back is forgotten.

    An address is the peer's own: who is behind one proxy or router shares it. Of IPv6 it is the
    network of 64 bits, which is what one person has.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def attempt(self, address: str, *, is_right: bool) -> float:
        """Takes an attempt; returns the seconds still to wait, 0 where the attempt counts.

        Both in one step, so that many attempts at once are no more than one after another.
        """
        key, now = _network(address), self._clock()
        with self._lock:
            known = self._known.get(key, _Known())
            if now < known.until:
                return known.until - now
            if is_right:
                self._known.pop(key, None)
                return 0.0
            known.wrong += 1
            if known.wrong >= FREE:
                known.until = now + min(LONGEST_SECONDS, 2.0 ** min(known.wrong - FREE, 30))
            self._known[key] = known
            self._known.move_to_end(key)
            if len(self._known) > MOST_ADDRESSES:
                self._known.popitem(last=False)
            return 0.0

    def __len__(self) -> int:
        """Returns how many addresses are remembered."""
        return len(self._known)


def _network(address: str) -> str:
    """What counts as one address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a socket of another kind
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
