"""Runs: a job becomes a record; data and network are brought together, trained, measured, certified.

`jobs.py` says what a job is, `run.py` runs one, and `sweep.py` runs many: one by one, or on Ray. What is learnt is in
`tasks.py`, what is measured in `measuring.py`, `metrics.py` and `verdict.py`, and what is written in `records.py`.
"""
