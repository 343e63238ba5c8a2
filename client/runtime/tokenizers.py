"""Tokenizers of the networks that read words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palate.shared.errors import ModelError
from palate.shared.shipped import check_shipped


def load_tokenizer(file: Path) -> Any:
    """Return the tokenizer of a file, which cuts and pads nothing; raises `ModelError`."""
    from tokenizers import Tokenizer

    check_shipped(file)
    if not file.is_file():
        raise ModelError(f"{file} is missing; install Palate anew")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
