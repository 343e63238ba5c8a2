"""Experiments: methods compared over virtual people, and what privacy costs.

The TOML files beside them are what is run.
"""
