"""The laboratory: data, networks, training, records, studies, reports, the demo and the command `convexnet`.

Nothing in the library imports it. Its rooms, from below: `data` and `models`; `training` (recipes, the loop, learners);
`runs` (a job becomes a record); `reports`; `studies` and `demo`, which use all of these; and `cli`, on top of them.
To follow one run, read `cli/train.py`, `runs/run.py`, `training/experiment.py` and `training/epoch.py`, in this order.
"""
