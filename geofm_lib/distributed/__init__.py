"""Many ranks: who they are, how a model is spread over them, one training step, and its checkpoints."""
