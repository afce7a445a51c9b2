"""`UsageError`: raised for a wrong use of the laboratory, and printed by the commands as one line."""

from __future__ import annotations


class UsageError(Exception):
    """The command was used wrongly; the message names the place and the remedy."""
