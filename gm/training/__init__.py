"""Fine-tuning: settings, the compiled step, optimizer, checkpoints and the loop over them."""
