"""Releases: from a run's encoder to a signed one that devices may take over.

An encoder, its tests and a key come in; a signed log and release files go out. Commands call it, and the
rounds for the key that signs invitations.
"""
