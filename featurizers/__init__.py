"""Pixels to vectors: decode, find the lungs, crop, embed. Plain NumPy and torch; knows no Spark and no JVM."""
