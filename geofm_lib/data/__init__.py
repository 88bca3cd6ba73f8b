"""Sources to data shards, and data shards to batches."""
