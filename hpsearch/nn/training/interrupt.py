"""How a training is told to stop, and says that it did."""

from __future__ import annotations


class Interrupted(Exception):  # noqa: N818 (an event, not an error)
    """The training was asked to stop and did so within one step; nothing broke."""
