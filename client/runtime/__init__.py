"""What reader, eye and painter compute with: threads, models on this machine, and how a longer job tells how far it is.

Any room of the device may call it; it knows none of them."""
