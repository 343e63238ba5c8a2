"""A run: who is asked, how long to wait, what counts, and what is kept of each round.

Settings and connected devices come in; an encoder, metrics and a ledger entry for each round go out. The
round process and simulations call it.
"""
