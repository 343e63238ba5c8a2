"""The painter: from a prompt and a taste to pictures.

A prompt, a profile and an evaluator come in. Pictures go out, ranked, and marked with how they were made.
Device, commands and demo call it. `contact_sheet`, `create` and `gallery`, which load Pillow, are imported by
their own names.
"""

from palate.client.painter.generator import DrawnPicture, Generator, Request, load_generator

__all__ = ["DrawnPicture", "Generator", "Request", "load_generator"]
