"""Minimising over sets that are no boxes, and subject to other networks: an exact penalty over a box."""
