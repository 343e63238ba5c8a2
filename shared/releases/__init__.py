"""A signed release as both sides know it: card, log, checks, and the message that carries them."""
