"""Attacks on ourselves, each with a positive control: lies, canaries, leaks, oracles."""
