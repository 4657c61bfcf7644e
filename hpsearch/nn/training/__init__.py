"""The training loop, its timer and its checkpoints."""
