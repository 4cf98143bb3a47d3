"""The learned way of finding the lungs: a small network, its weights, and how they come about."""
