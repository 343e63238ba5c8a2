"""The benchmark table: one module per group of rows, each with a `run` that returns `rows.Row`s.

See `__main__`.
"""
