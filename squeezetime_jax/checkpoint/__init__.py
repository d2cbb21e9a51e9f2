"""Files in and out: released weights, and our own checkpoints."""
