"""The demo: two people with different tastes, the same prompts drawn for both, and a page that shows it.

The pictures and comments in this folder come in; a contact sheet and a page go out. Only `palate demo` calls
it, and imports its two modules when it runs.
"""
