"""This device's labels: the kept comments, pictures and phrases as local training takes them.

Where it stands in the flow: `member` reads the labels anew for each round, and `preview` for what it shows. A
comment that was forgotten is in no label after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from palate.client.device import Device
from palate.client.records import Taught
from palate.client.runtime.progress import no_progress
from palate.client.taste.profile import read_edits
from palate.shared.arrays import Float32s
from palate.shared.encoder import SENTENCE_FEATURES

if TYPE_CHECKING:
    from palate.client.federation.local_training import Labels


def teaching_comments(device: Device) -> list[Taught]:
    """Return the comments that labels are made of, those with a verdict on a picture, the oldest first."""
    return [
        one for one in device.comments() if one.comment.liked is not None and one.comment.picture is not None
    ]


def read_labels(
    device: Device, known: Mapping[str, Float32s] | None = None
) -> tuple[Labels, dict[str, Float32s]]:
    """Return one label for each of `teaching_comments`, in its order, and the meanings of their phrases.

    Phrases are the attributes that the comment names, liked or not, except those that the person has vetoed.

    Args:
        device: an open device.
        known: meanings that an earlier call returned; they are not computed again.

    Raises:
        VaultError: what the vault raises.
    """
    from palate.client.eye.tower import FEATURE_NAMES
    from palate.client.federation.local_training import Labels
    from palate.client.taste.fitting import read_verdicts

    taught = teaching_comments(device)
    verdicts = read_verdicts(device.vault, taught, no_progress)
    liked = np.array([one.comment.liked is True for one in taught], dtype=np.bool_)
    features = np.zeros((len(taught), len(FEATURE_NAMES)), np.float32)
    features[liked], features[~liked] = verdicts.liked, verdicts.disliked
    vetoed = {name for name, edit in read_edits(device.vault).items() if edit.vetoed}
    named = [tuple(dict.fromkeys(m.name for m in one.mentions if m.name not in vetoed)) for one in taught]
    meanings = read_meanings({name for names in named for name in names}, known)
    phrases = np.zeros((len(taught), SENTENCE_FEATURES), np.float32)
    for row, names in zip(phrases, named, strict=True):
        if names:
            row[:] = np.mean([meanings[name] for name in names], axis=0)
    return Labels(features, liked, phrases), meanings


def read_meanings(names: set[str], known: Mapping[str, Float32s] | None = None) -> dict[str, Float32s]:
    """Return each attribute's direction in the sentence tower, (384,) of length 1.

    Those in `known` are not computed again.

    The result holds these names and no others, so nothing of a forgotten comment stays in it.
    """
    from palate.client.reader.sentences import SentenceTower

    found = {name: known[name] for name in names if known and name in known}
    terms = _term_meanings()
    found |= {name: terms[name] for name in names - found.keys() if name in terms}
    tower = SentenceTower()
    # One by one, so that to the last bit a direction does not depend on the others.
    return found | {name: tower.embed([name])[0] for name in sorted(names - found.keys())}


@cache
def _term_meanings() -> dict[str, Float32s]:
    """Return the direction of each term of the vocabulary, by name and alias."""
    from palate.client.reader.sentences import SentenceTower, load_term_embeddings

    rows, names = load_term_embeddings(SentenceTower())
    found: dict[str, Float32s] = {}
    for row, name in zip(rows, names, strict=True):
        found.setdefault(name, row)  # the first is the term's own name, the others are its aliases
    return found
