"""A signed release, as both sides must know it: its card, the log of all of them, how it is checked, and the message that carries it."""
