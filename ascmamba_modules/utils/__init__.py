"""Files, checkpoints, the loop over epochs."""
