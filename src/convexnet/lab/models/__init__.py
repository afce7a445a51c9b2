"""The networks that experiments train: named, made, put behind a fixed first step, saved.

Start at `registry.py`, the one list of names. `architectures.py` makes those that are built in, `foreign.py` those of
timm and of users; `convex.py` says how a recipe makes one convex; `saved.py` reads what `train` wrote.
"""
