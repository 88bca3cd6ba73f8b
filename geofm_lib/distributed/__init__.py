"""Floor 2: ranks, sharding, checkpoints, meters."""
