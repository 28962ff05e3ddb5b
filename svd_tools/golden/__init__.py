"""Replay of tensors recorded from the original code: one module for each kind of golden file."""
