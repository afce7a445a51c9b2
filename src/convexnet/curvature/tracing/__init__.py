"""From a module to one traced program that computes what its forward computes, with everything put back afterwards."""
