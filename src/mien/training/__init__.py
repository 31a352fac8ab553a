"""Fine-tuning: augmentation, optimizer, schedule, the loop and its saved state."""
