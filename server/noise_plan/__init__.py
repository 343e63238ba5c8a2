"""Noise that is correlated over the rounds, for fleets that cannot be sampled, and the folder that keeps it.

A plan and a step come in; the noise of that step goes out. The rounds and the settings of privacy call it.
"""
