"""Cuts a comment into sentences of words: the first step from comment to attributes.

People write "dont", "sooo", "it's" and curly quotes; here that becomes plain lower-case words, each of which
remembers where it stood in the comment, so that a mention can quote it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from palate.shared.attributes import spelling_key
from palate.shared.errors import CommentError

MAX_COMMENT = 10_000
"""Characters in the longest comment that is read.

Longer ones are refused, since reading takes time in proportion.
"""

_PIECE = re.compile(r"[^\W_]+(?:'[^\W_]+)?|&|[.!?;:\n,()\[\]…/]|(?<=\s)-+(?=\s)|[—–]|--+")
_ENDS = frozenset(".!?;\n…")
_CONTRACTED = {
    "can't": "can not", "cannot": "can not", "won't": "will not", "shan't": "shall not", "ain't": "is not", "let's": "let us",
    "dont": "do not", "doesnt": "does not", "didnt": "did not", "isnt": "is not", "arent": "are not", "wasnt": "was not",
    "werent": "were not", "cant": "can not", "wont": "will not", "wouldnt": "would not", "couldnt": "could not",
    "shouldnt": "should not", "hasnt": "has not", "havent": "have not", "im": "i am", "ive": "i have", "id": "i would",
    "thats": "that is", "theres": "there is", "whats": "what is", "gimme": "give me", "luv": "love", "lovin": "loving",
    "rly": "really", "v": "very", "gr8": "great", "thx": "thanks", "w": "with", "w/o": "without", "&": "and", "n": "and",
    "wanna": "want", "gonna": "going", "altho": "although", "tho": "though", "coz": "because", "cos": "because", "cuz": "because",
}  # fmt: skip
_ENDINGS = {"n't": "not", "'s": "is", "'re": "are", "'d": "would", "'ve": "have", "'ll": "will", "'m": "am"}
# After these words "'s" is a verb; after a noun it marks possession and goes.
_SHORT_IS = frozenset(
    {"it", "that", "there", "what", "here", "he", "she", "this", "where", "everything", "who", "how"}
)


@dataclass(frozen=True)
class Word:
    """One word of a comment: as read, its spelling key, and the characters [start, end) of the comment that it stands for."""

    text: str
    key: str
    start: int
    end: int

    @property
    def is_mark(self) -> bool:
        """Says whether this is a comma, bracket or dash rather than a word."""
        return not self.text[:1].isalnum()


def read_sentences(comment: str) -> list[list[Word]]:
    """Return the comment's sentences as lists of words, commas and brackets included.

    Raises CommentError when the comment is empty, longer than MAX_COMMENT, or holds no words in Latin
    letters.
    """
    if len(comment) > MAX_COMMENT:
        raise CommentError(
            f"comment: {len(comment)} characters; at most {MAX_COMMENT} are read, so shorten it"
        )
    if not comment.strip():
        raise CommentError("comment: it is empty; write what you like or dislike about the picture's looks")
    # Only replacements that keep the length, so that positions stay true.
    plain = "".join(_fold(character) for character in comment)
    sentences: list[list[Word]] = [[]]
    for match in _PIECE.finditer(plain):
        piece = match.group()
        if piece in _ENDS:
            sentences.append([])
        elif not piece[0].isalnum() and piece != "&":
            mark = ":" if piece == ":" else ","
            sentences[-1].append(Word(mark, mark, match.start(), match.end()))
        elif (
            piece in ("like", "looking", "coloured", "colored")
            and plain[match.start() - 1 : match.start()] == "-"
        ):
            continue  # "jewel-like" describes as "jewel" does, and likes nothing
        else:
            sentences[-1].extend(
                Word(text, spelling_key(text), match.start(), match.end()) for text in _expand(piece)
            )
    sentences = [sentence for sentence in sentences if any(not word.is_mark for word in sentence)]
    words = [word for sentence in sentences for word in sentence if not word.is_mark]
    if not any(word.text.isascii() and word.text.isalpha() for word in words):
        raise CommentError("comment: it holds no English words; say in words what you like or dislike")
    return sentences


def _fold(character: str) -> str:
    """Return the plain lower-case form of one character, always one character long."""
    if character in "’‘`´ʼ":
        return "'"
    folded = unicodedata.normalize("NFKD", character)[:1].lower()
    return folded if len(folded) == 1 else character


def _expand(piece: str) -> list[str]:
    """Return the words that one written word stands for: "isn't" is "is not", "sooo" is "so"."""
    piece = re.sub(r"([a-z])\1{2,}", r"\1\1", piece) if not piece.isdigit() else piece
    if piece in _CONTRACTED:
        return _CONTRACTED[piece].split()
    if piece.endswith("n't"):
        return [piece[:-3], "not"]
    head, mark, tail = piece.partition("'")
    if not mark:
        return [piece]
    if tail == "s" and head not in _SHORT_IS:
        return [head]
    meaning = _ENDINGS.get("'" + tail)
    return [head, meaning] if meaning else [head + tail]
