"""Sets that inputs range over: one file for each."""

from convexnet.domains.box import Box

__all__ = ["Box"]
