"""A job and its record: data and network brought together, trained, measured, certified; alone or in sweeps."""
