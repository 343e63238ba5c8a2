"""Experiments: methods compared over virtual people, and what privacy costs.

The TOML files next to them are what is run.
"""
