"""Will this person like these pictures? With a vault's comments, or on any liked and disliked pictures.

Stands between `device` (or the command line) and `evaluator`: reads pictures, lets the picture tower look at
them, fits the evaluator, scores. A picture is looked at through the same small copy that the vault keeps, so
it has the same features whether it was taught or is scored. Scoring changes nothing: any number of calls
gives the same answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from palate.client.eye import (
    OnUnreadable,
    PictureSource,
    copy_picture,
    find_pictures,
    read_each,
    read_picture,
)
from palate.client.runtime import Progress, no_progress
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from PIL import Image

    from palate.client.eye import Features
    from palate.client.taste.evaluator import Attribution, Evaluator
    from palate.shared.encoder import EncoderWeights

BATCH = 32  # pictures that the tower looks at together


@dataclass(frozen=True)
class PictureScore:
    """How likely the person likes one picture: a probability, its 90 % interval, the strongest reasons."""

    image: str
    probability: float
    low: float
    high: float
    because: "tuple[Attribution, ...]"

    def to_json(self) -> dict[str, Any]:
        """Return the score as `palate score --json` prints it.

        A reason's weight is in logits. With `more` the picture shows more of the attribute than an average
        one.
        """
        return {
            "image": self.image,
            "probability": round(self.probability, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "because": [
                {"attribute": reason.attribute, "weight": round(reason.weight, 4), "more": reason.more}
                for reason in self.because
            ],
        }


def score_pictures(
    pictures: Sequence[PictureSource],
    *,
    liked: Sequence[PictureSource],
    disliked: Sequence[PictureSource],
    progress: Progress = no_progress,
    on_unreadable: OnUnreadable | None = None,
) -> list[PictureScore]:
    """Score pictures for somebody who likes and dislikes these others; needs no vault and keeps nothing.

    Args:
        pictures: files, folders (which stand for the pictures in them) or bytes.
        liked: about 8 make good scores. Without any verdict the answer is what people like on the whole.
        disliked: about as many.
        progress: is told how far the work is.
        on_unreadable: is told of each picture that cannot be read, which is then left out. Without it the
            first such picture is raised.

    Raises:
        PictureError: a picture that cannot be read, or a folder without pictures.
        OptionError: nothing to score, or more than 10,000 pictures.
    """
    from palate.client.eye.backbone import shipped
    from palate.client.taste.evaluator import fit_evaluator

    groups = [find_pictures(sources) for sources in (liked, disliked, pictures)]
    if not groups[-1]:
        raise OptionError("no picture was given to score")
    # All are read before the tower is loaded: a mistake in a name is answered at once.
    known, unknown, asked = (
        read_each(group, copy_picture, progress=progress, on_unreadable=on_unreadable) for group in groups
    )
    features = look_at_copies([copy for _, copy in (*known, *unknown, *asked)], progress)
    first, second = len(known), len(known) + len(unknown)
    evaluator = fit_evaluator(shipped(), features[:first], features[first:second])
    return name_scores([name for name, _ in asked], evaluator, features[second:])


def name_scores(names: Sequence[str], evaluator: "Evaluator", features: "Features") -> list[PictureScore]:
    """Score features (n, F) and put each picture's name to its score, in the order given."""
    return [
        PictureScore(name, one.probability, one.low, one.high, tuple(one.because))
        for name, one in zip(names, evaluator.score(features), strict=True)
    ]


def look_at_copies(copies: Sequence[bytes], progress: Progress = no_progress) -> "Features":
    """Return the features (n, F) of pictures from their small copies (`pictures.copy_picture`)."""
    import numpy as np

    from palate.client.eye import FEATURE_NAMES, picture_features

    rows = [np.zeros((0, len(FEATURE_NAMES)), dtype=np.float32)]
    for start in range(0, len(copies), BATCH):
        rows.append(picture_features([read_picture(copy) for copy in copies[start : start + BATCH]]))
        progress("looking at pictures", min(start + BATCH, len(copies)), len(copies))
    return np.concatenate(rows)


def look_at(picture: "Image.Image") -> "Features":
    """Return one picture's features (F,), alone, so that no bit depends on what else is looked at."""
    from palate.client.eye import picture_features

    row: Features = picture_features([picture])[0]
    return row


def read_directions(encoder: "EncoderWeights", attributes: Mapping[str, float]) -> "dict[str, Features]":
    """Return the directions (64,) in the taste space of attributes that the vocabulary does not have."""
    from palate.shared.attributes import load_vocabulary

    vocabulary = load_vocabulary()
    unknown = [name for name in attributes if vocabulary.category(name) is None]
    if not unknown:
        return {}
    from palate.client.reader.sentences import SentenceTower
    from palate.shared.encoder import project_sentences

    tower = SentenceTower()
    # One by one, so that to the last bit a direction does not depend on the others.
    return {name: project_sentences(encoder, tower.embed([name]))[0] for name in unknown}
