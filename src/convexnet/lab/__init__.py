"""Everything that is an experiment: data, label noise, training, metrics, figures, report, command line."""
