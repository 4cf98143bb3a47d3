"""Fine-tuning a backbone on crops: network, losses, augmentation, optimisers, and the loop that trains."""
