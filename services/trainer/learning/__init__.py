"""What happens in the training process: the only place where torch is imported."""
