"""Everything that knows the lake and Spark: session, tables, sources, and one module per verb."""

__version__ = "0.1.0"
