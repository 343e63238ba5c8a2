"""The masked sum as both sides know it: masks, shares, agreements, pseudonyms and their messages.

Pure functions on arrays and bytes; client and server call them.
"""
