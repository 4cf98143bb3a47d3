"""One module per data set: how its archive is planned, and its own folders, file names and label files."""
