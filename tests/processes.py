"""What tests say about the processes that they start."""

from __future__ import annotations

HANGING = 1800.0
"""Seconds after which a process is taken to hang. A limit below that would fail on a busy machine, not on a fault."""
