"""How the shipped weights were made: one command each, resumable, and the very thing that made the file."""
