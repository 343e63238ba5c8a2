"""Will this person like these pictures? With a vault's comments, or on any liked and disliked pictures without a vault.

Stands between `device` (or the command line) and `evaluator`: reads pictures, lets the picture tower look at them, fits
the evaluator, scores. A picture is looked at through the same small copy that the vault keeps, so that a picture gets
the same features whether it was taught or is asked about. Nothing is changed by asking: any number of questions gives
the same answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.client.eye.pictures import KEPT_SIDE_PIXELS, read_picture, shrink_picture
from palate.client.runtime.progress import Progress
from palate.shared.errors import OptionError, PictureError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from palate.client.taste.evaluator import Evaluator, Reason
    from palate.shared.encoder import EncoderWeights

    Features = NDArray[np.float32]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif")
MAX_PICTURES = 10_000
BATCH = 32  # pictures that the tower looks at together


@dataclass(frozen=True)
class PictureScore:
    """How likely the person likes one picture: a probability, its 90 % interval, and the strongest reasons."""

    image: str
    probability: float
    low: float
    high: float
    because: "tuple[Reason, ...]"

    def to_json(self) -> dict[str, Any]:
        """Return the score as `palate score --json` prints it.

        A reason's weight is in logits; more: the picture shows more of the attribute than an average one.
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
    pictures: Sequence[Path | str | bytes],
    *,
    liked: Sequence[Path | str | bytes],
    disliked: Sequence[Path | str | bytes],
    progress: Progress | None = None,
) -> list[PictureScore]:
    """Score pictures for somebody who likes and dislikes these others; needs no vault and keeps nothing.

    A path may be a folder, and then stands for the pictures in it. About 8 liked and 8 disliked ones make good scores;
    without any, the answer is what people like on the whole. Raises `PictureError` or `OptionError`.
    """
    from palate.client.eye.backbone import shipped
    from palate.client.taste.evaluator import fit_evaluator

    known, unknown, asked = (find_pictures(paths) for paths in (liked, disliked, pictures))
    if not asked:
        raise OptionError("no picture was given to score")
    features = look_at_files([*known, *unknown, *asked], progress)
    first, second = len(known), len(known) + len(unknown)
    evaluator = fit_evaluator(shipped(), features[:first], features[first:second])
    return name_scores(asked, evaluator, features[second:])


def name_scores(
    pictures: Sequence[Path | str | bytes], evaluator: "Evaluator", features: "Features"
) -> list[PictureScore]:
    """Score features (n, F) and put each picture's name to its score, in the order given."""
    names = [str(one) if not isinstance(one, bytes) else f"picture {i}" for i, one in enumerate(pictures)]
    return [
        PictureScore(name, one.probability, one.low, one.high, tuple(one.because))
        for name, one in zip(names, evaluator.score(features), strict=True)
    ]


def find_pictures(paths: Sequence[Path | str | bytes]) -> list[Path | str | bytes]:
    """Return the given pictures, each folder replaced by the pictures in it (by name, not in folders below).

    Raises `PictureError` for a folder without pictures, `OptionError` for more than 10,000 pictures.
    """
    found: list[Path | str | bytes] = []
    for path in paths:
        if isinstance(path, bytes) or not Path(path).is_dir():
            found.append(path)
            continue
        inside = sorted(one for one in Path(path).iterdir() if one.suffix.lower() in PICTURE_SUFFIXES)
        if not inside:
            raise PictureError(
                f"the folder {str(path)!r} holds no pictures; give one that does, or single files"
            )
        found += inside
    if len(found) > MAX_PICTURES:
        raise OptionError(f"{len(found):,} pictures were given; at most {MAX_PICTURES:,} are read at once")
    return found


def look_at_files(pictures: Sequence[Path | str | bytes], progress: Progress | None = None) -> "Features":
    """Return the features (n, F) of pictures in files or bytes; raises `PictureError` for the first unreadable one."""
    import numpy as np

    # All are read once before the tower is loaded: a mistake in a name is answered at once.
    kept = []
    for number, picture in enumerate(pictures):
        kept.append(shrink_picture(read_picture(picture, least_side=2 * KEPT_SIDE_PIXELS)))
        if progress is not None:
            progress("reading pictures", number + 1, len(pictures))
    from palate.client.eye.tower import FEATURES, picture_features

    rows = [np.zeros((0, len(FEATURES)), dtype=np.float32)]
    for start in range(0, len(kept), BATCH):
        rows.append(picture_features([read_picture(data) for data in kept[start : start + BATCH]]))
        if progress is not None:
            progress("looking at pictures", min(start + BATCH, len(kept)), len(kept))
    return np.concatenate(rows)


def look_at(picture: "Image.Image") -> "Features":
    """Return one picture's features (F,), looked at alone: to the last bit the same whatever else is looked at."""
    from palate.client.eye.tower import picture_features

    row: Features = picture_features([picture])[0]
    return row


def read_directions(encoder: "EncoderWeights", attributes: Mapping[str, float]) -> "dict[str, Features]":
    """Return, for attributes that the vocabulary does not have, their directions (64,) in the taste space."""
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
