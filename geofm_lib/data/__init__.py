"""Floor 1: archives to data shards, images to batches, the built-in scenes."""
