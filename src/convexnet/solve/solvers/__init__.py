"""The methods, one file for each, and the one loop that runs them."""
