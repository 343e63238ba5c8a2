"""Taking part in rounds: what a device answers to a server, and the one way by which anything leaves.

A server's signed invitation comes in; an `EncoderUpdate`, privatized and masked, goes out through `outbox`.
Only commands and the demo use this room. Flower is imported in `app` and `fleet` alone.
"""
