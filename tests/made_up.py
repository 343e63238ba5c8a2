"""People for tests of rounds: random pictures, verdicts and phrases, the same for the same numbers."""

import numpy as np

from palate.client.federation.local_training import Labels
from palate.shared.encoder import PICTURE_FEATURES, SENTENCE_FEATURES, load_encoder


def make_labels(count: int, seed: int = 0) -> Labels:
    """A person with `count` labels; three in ten have no words."""
    rng = np.random.default_rng([count, seed])
    t = load_encoder().tensors
    features = t["feature.mean"] + t["feature.scale"] * rng.standard_normal((count, PICTURE_FEATURES))
    phrases = rng.standard_normal((count, SENTENCE_FEATURES))
    phrases /= np.linalg.norm(phrases, axis=1, keepdims=True)
    phrases[rng.random(count) < 0.3] = 0
    return Labels(features.astype(np.float32), rng.random(count) < 0.5, phrases.astype(np.float32))
