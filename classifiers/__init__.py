"""Vectors to decisions: tasks, class balance, heads, metrics, report. Plain NumPy; knows no Spark and no pixels."""
