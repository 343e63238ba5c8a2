"""Makes personal pictures: the profile goes in as conditioning, the evaluator picks, the fidelity guard watches.

Stands between `device` and `generator`. What comes out are finished PNG files as bytes, with their provenance inside
and nothing personal: no prompt, no attribute, only a keyed name of the profile's version.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palate.client.runtime.progress import Progress

if TYPE_CHECKING:
    from PIL import Image

    from palate.client.eye.tower import Look
    from palate.client.painter.generator import DrawnPicture, Generator, Request
    from palate.client.taste.evaluator import Evaluator

LEAST_SHOWN = 0.5
"""A picture in which the tower gives the prompt's subject a lower probability than this is drawn again, less personal."""

DOUBT = 100.0
"""What a candidate loses, in logits of liking, for the probability that its subject is not shown: one for each percent."""


@dataclass(frozen=True)
class Made:
    """One picture that was made, how, and how likely the person likes it."""

    picture: "DrawnPicture"
    probability: float
    png: bytes
    impersonal_probability: float | None = None
    impersonal_png: bytes | None = None
    personal: bool = True
    """Whether a taste had a part in it: none does before anything was taught, or at strength 0."""

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
    """Make what is asked for, the best first when several candidates are drawn for each picture."""
    from palate.client.eye.tower import subject_of_prompt
    from palate.client.painter.provenance import png_bytes, provenance_of

    eye = _Eye(evaluator)
    # Only the shipped generator draws the world that the tower has learned, so only its pictures are asked about.
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
    """Return what ranks candidates, (n,): expected logits of liking, for probabilities crowd at 1, less doubts about the subject.

    Whoever likes mist likes the picture best in which nothing else is left; the doubts keep it from being picked.
    """
    from palate.client.eye.tower import SUBJECTS

    utilities = evaluator.utilities(look.features)
    if subject is None:
        return utilities
    return utilities - np.float32(DOUBT) * (1 - look.subjects[:, SUBJECTS.index(subject)])


class _Eye:
    """Looks at each picture once and remembers it, however often it is asked about; a look takes some 30 ms."""

    def __init__(self, evaluator: "Evaluator") -> None:
        self._evaluator = evaluator
        self._seen: dict[
            int, tuple[Image.Image, Look]
        ] = {}  # the picture is kept, so that its id stays its own

    def worth(self, image: "Image.Image", subject: str | None) -> float:
        """Return what ranks candidates."""
        return float(worth(self._evaluator, self._look(image), subject)[0])

    def probability(self, image: "Image.Image") -> float:
        """Return how likely the person likes the picture."""
        return float(self._evaluator.probabilities(self._look(image).features)[0])

    def shows(self, image: "Image.Image", subject: str) -> bool:
        """Say whether the picture still shows the subject."""
        from palate.client.eye.tower import SUBJECTS

        return float(self._look(image).subjects[0, SUBJECTS.index(subject)]) >= LEAST_SHOWN

    def _look(self, image: "Image.Image") -> "Look":
        from palate.client.eye.tower import load_tower

        if id(image) not in self._seen:
            self._seen[id(image)] = image, load_tower().look([image])
        return self._seen[id(image)][1]
