"""Facts as plain rows (models, strategies, machines, data sets, published figures)."""
