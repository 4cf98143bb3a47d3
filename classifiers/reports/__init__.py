"""Pages about heads: self-contained HTML, with no script and nothing to load."""
