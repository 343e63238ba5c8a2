"""The public port, and the books behind it: what devices need and nothing else.

Signed calls of devices come in as bytes; messages go out to the round loop through the owner's socket. The
server's process alone starts it.
"""
