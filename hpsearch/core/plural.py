"""A number with its noun, in the singular or the plural."""

from __future__ import annotations


def plural(number: int, noun: str, *, thousands: str = "") -> str:
    """Returns the number and the noun, which takes an s unless the number is 1.

    ``thousands`` is the separator of the number's thousands, "," or none.

    >>> plural(1, "trial"), plural(0, "fresh seed"), plural(4000, "trial", thousands=",")
    ('1 trial', '0 fresh seeds', '4,000 trials')
    """
    return f"{number:{thousands}} {noun}{'s' * (number != 1)}"
