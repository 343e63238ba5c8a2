"""Releases: which signed encoder this device accepted, and which one this person's evaluator uses.

Signed messages and a person's labels come in; an encoder goes out. The device asks for the person's encoder, the federation for the one that
rounds start from; this room knows eye, taste and vault."""
