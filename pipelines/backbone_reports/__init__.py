"""What a fine-tuning leaves for people: its page, its curves, its epochs."""
