"""Releases: which signed encoder this device accepted, and which one this person's evaluator uses.

Signed messages and a person's labels come in; an encoder goes out. The device gets the person's encoder here,
the federation the one that rounds start from. This room knows eye, taste and vault.
"""
