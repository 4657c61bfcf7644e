"""How a training reports that it was asked to stop. Importing this module does not import torch."""

from __future__ import annotations


class Interrupted(Exception):  # noqa: N818 (an event, not an error)
    """The training was asked to stop and did so within one step; nothing broke."""
