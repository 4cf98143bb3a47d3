"""One adapter per data set: where its files lie and what its label files say. `base` has what they share."""
