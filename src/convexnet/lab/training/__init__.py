"""How a network is trained: recipes, the loop over an epoch, checkpoints, logs, and what drives a learner."""
