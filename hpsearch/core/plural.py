"""Numbers with a noun in the singular or plural."""

from __future__ import annotations


def plural(number: int, noun: str, *, thousands: str = "") -> str:
    """Returns the number and the noun, with an s unless the number is 1.

    ``thousands`` is the thousands separator, "," or "".

    >>> plural(1, "trial"), plural(0, "fresh seed"), plural(4000, "trial", thousands=",")
    ('1 trial', '0 fresh seeds', '4,000 trials')
    """
    return f"{number:{thousands}} {noun}{'s' * (number != 1)}"
