"""One problem after another: networks of kinks, read as matrices once, and minimised one sample at a time in numpy.

Read `tape.py` (the program as products of its own matrices), `sample.py` (one sample of it, and the bound that
multipliers prove), `vertex.py` (one linear system, where the kinks that held the last minimiser hold this one),
`path.py` (path following) and `quick.py` (what `Minimiser` calls).
"""
