"""The masked sum, as both sides must know it: masks, shares, agreements, pseudonyms and the messages that carry them.

Pure functions on arrays and bytes; client and server call them."""
