"""How a network is trained: recipes, the loop over an epoch, checkpoints, logs, and the driver of learners.

`recipes.py` is plain data, `epoch.py` the loop over batches, `experiment.py` the learner that calls it, and `driver.py`
what lets any learner advance. `task.py` says what is learnt. Nothing here knows of jobs or records.
"""
