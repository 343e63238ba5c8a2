"""Makes personal pictures: the profile is the condition, the evaluator picks, and the subject is checked.

Stands between `device` and `generator`. Finished PNG files come out as bytes. They hold their provenance and
nothing personal: no prompt, no attribute, only a keyed name of the profile's version.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palate.client.runtime import Progress

if TYPE_CHECKING:
    from PIL import Image

    from palate.client.eye import Look
    from palate.client.painter.generator import DrawnPicture, Generator, Request
    from palate.client.taste.evaluator import Evaluator

LEAST_SHOWN = 0.5
"""If the tower gives the prompt's subject a lower probability, the picture is drawn again, less personal."""

DOUBT = 100.0
"""A candidate loses so many logits of liking for a subject that is surely not shown: one for each percent."""


@dataclass(frozen=True)
class Made:
    """One picture that was made, how, and how likely the person likes it."""

    picture: "DrawnPicture"
    probability: float
    png: bytes
    impersonal_probability: float | None = None
    impersonal_png: bytes | None = None
    personal: bool = True
    """Whether a taste had a part in it; none has before anything was taught, or at strength 0."""

    def to_json(self) -> dict[str, Any]:
        """Return what `palate create --json` prints about it, apart from the files."""
        return {
            "seed": self.picture.seed,
            "strength": self.picture.strength,
            "dislike_strength": self.picture.dislike_strength,
            "probability": round(self.probability, 4),
            "impersonal_probability": (
                None if self.impersonal_probability is None else round(self.impersonal_probability, 4)
            ),
        }


def create_pictures(
    generator: "Generator",
    request: "Request",
    evaluator: "Evaluator",
    *,
    profile_version: str = "",
    progress: Progress,
) -> list[Made]:
    """Return the pictures of a request, the best first if several candidates are drawn for each.

    Args:
        generator: draws them.
        request: what to draw.
        evaluator: the person's; scores them, and ranks candidates.
        profile_version: the keyed name of the profile's state, for the provenance.
        progress: is told how many steps are done.
    """
    from palate.client.eye import subject_of_prompt
    from palate.client.painter.provenance import png_bytes, provenance_of

    eye = _Eye(evaluator)
    # Only the shipped generator draws the world that the tower has learned, so only its pictures are asked
    # about.
    subject = subject_of_prompt(request.prompt) if generator.shipped else None
    pictures = generator.generate(
        request,
        score=lambda image: eye.worth(image, subject),
        faithful=None if subject is None else lambda image: eye.shows(image, subject),
        progress=lambda done, total: progress("making pictures", done, total),
    )
    made = []
    for picture in pictures:
        impersonal = picture.impersonal
        made.append(
            Made(
                picture,
                eye.probability(picture.image),
                png_bytes(picture.image, provenance_of(generator, request, picture, profile_version)),
                eye.probability(impersonal) if impersonal is not None else None,
                png_bytes(impersonal, provenance_of(generator, request, picture, impersonal=True))
                if impersonal is not None
                else None,
                request.personal,
            )
        )
    return made


def worth(evaluator: "Evaluator", look: "Look", subject: str | None) -> NDArray[np.float32]:
    """Return what ranks candidates, (n,): expected logits of liking, less doubts about the subject.

    Logits, because probabilities crowd at 1. The doubt, because for a person who likes mist the best picture
    would otherwise be the one in which nothing else is left.

    Args:
        evaluator: the person's.
        look: what the tower says of the n candidates.
        subject: the prompt's, or None where it names none that the tower knows.
    """
    from palate.client.eye import SUBJECTS

    utilities = evaluator.utilities(look.features)
    if subject is None:
        return utilities
    return utilities - np.float32(DOUBT) * (1 - look.subjects[:, SUBJECTS.index(subject)])


class _Eye:
    """Looks at each picture once and remembers the look, which takes some 30 ms."""

    def __init__(self, evaluator: "Evaluator") -> None:
        self._evaluator = evaluator
        # The picture is kept, so that its id stays its own.
        self._seen: dict[int, tuple[Image.Image, Look]] = {}

    def worth(self, image: "Image.Image", subject: str | None) -> float:
        """Return the number that ranks a candidate."""
        return float(worth(self._evaluator, self._look(image), subject)[0])

    def probability(self, image: "Image.Image") -> float:
        """Return how likely the person likes the picture."""
        return float(self._evaluator.probabilities(self._look(image).features)[0])

    def shows(self, image: "Image.Image", subject: str) -> bool:
        """Return whether the picture still shows the subject."""
        from palate.client.eye import SUBJECTS

        return float(self._look(image).subjects[0, SUBJECTS.index(subject)]) >= LEAST_SHOWN

    def _look(self, image: "Image.Image") -> "Look":
        from palate.client.eye import load_tower

        if id(image) not in self._seen:
            self._seen[id(image)] = image, load_tower().look([image])
        return self._seen[id(image)][1]
