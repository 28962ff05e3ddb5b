"""Command-line tools around the model: checkpoints, verification, labels."""
