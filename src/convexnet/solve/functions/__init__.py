"""What a solver sees of a network: its value, subgradients and matrices, in the descriptions that solvers ask for."""
