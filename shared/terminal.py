"""Text from outside, made safe to print: it may hold control codes of a terminal.

Where it stands in the flow: both command lines print through `printable`. A control code could clear the
screen, move the cursor over an earlier line or set the window's title (CWE-150), and a character that turns
the direction of writing could make a line read as another one.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text with each character that cannot be printed, except line ends, replaced by �."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
