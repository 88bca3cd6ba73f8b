"""Floor 0: facts as plain rows (models, strategies, machines, data sets, published figures)."""
