"""What device and server must agree on: attributes, the encoder, and what may travel.

Imports nothing of ours.
"""
