"""The common side: rounds, aggregation and releases of the shared encoder.

It never sees anything personal.
"""
