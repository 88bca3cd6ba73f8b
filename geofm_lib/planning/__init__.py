"""Floor 0: arithmetic on the facts (parameters, FLOPs, bytes)."""
