"""Which attributes of a profile the shipped generator is asked for: those that it can draw, and that one picture can bear.

A profile is in open words; the shipped generator learned the attributes of its drawn world. Each preference
is translated into those by what it shows (`shared/vocabulary.toml`: "gloomy" shows dark and melancholic),
signed, and summed. A picture cannot be a watercolour and a mosaic at once, so of the likes only the strongest
of each kind is asked for, and only as many as the generator met together while it learned. Likes that veil a
picture (mist, rain, night, a wash of watercolour) share the room that two of them would have, or a person who
likes five would see the subject no more. Dislikes exclude nothing and all go in.
"""

from collections.abc import Mapping

from palate.client.taste import Profile
from palate.shared.attributes import Vocabulary, load_vocabulary

Weighted = tuple[tuple[str, float], ...]  # (attribute, weight above 0), the strongest first

MOST_LIKES = 5
"""The generator met at most five attributes in one picture."""

SAME_KIND: Mapping[str, str] = {"brushwork": "technique", "temperature": "colour"}
"""Categories whose values exclude those of another: a mosaic has no brushstrokes."""

LEAST_WEIGHT = 0.05
"""A translation fainter than this says nothing."""

VEILS: Mapping[str, float] = {
    **dict.fromkeys(
        (
            "misty", "rainy", "snowy", "dark", "moonlit", "spotlit", "smooth", "calm", "melancholic", "dramatic", "dreamy",
            "joyful", "muted", "pastel", "pointillism", "mosaic", "stained glass", "crosshatching", "watercolour", "grainy",
            "canvas", "tilted", "busy", "flowing lines", "angular lines", "impasto", "swirling brushstrokes", "minimalist",
        ),
        1.0,
    ),
    "low contrast": 2.0,
}  # fmt: skip
"""What takes light, edges, shape or room from the subject, and how much of it."""

BEARABLE = 2.0
"""How much of that the generator met in one picture while it learned."""


def drawable_attributes(profile: Profile, vocabulary: Vocabulary | None = None) -> tuple[Weighted, Weighted]:
    """Return the likes and the dislikes to ask for, as attributes of the drawn world with weights in (0, 1]."""
    vocabulary = vocabulary or load_vocabulary()
    wanted: dict[str, float] = {}
    for attribute, strength in profile.signed().items():
        for shown, weight in vocabulary.shows(attribute).items():
            wanted[shown] = wanted.get(shown, 0.0) + strength * weight
    strongest_first = sorted(wanted.items(), key=lambda one: (-abs(one[1]), one[0]))
    likes: list[tuple[str, float]] = []
    kinds: set[str] = set()
    for shown, weight in strongest_first:
        category = vocabulary.category(shown) or shown
        kind = SAME_KIND.get(category, category)
        if weight > LEAST_WEIGHT and kind not in kinds and len(likes) < MOST_LIKES:
            kinds.add(kind)
            likes.append((shown, min(1.0, weight)))
    likes = _thin_veils(likes)
    dislikes = [(shown, min(1.0, -weight)) for shown, weight in strongest_first if weight < -LEAST_WEIGHT]
    return tuple(likes), tuple(dislikes)


def _thin_veils(likes: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Weaken the veils among likes until a picture bears them, counted in shares of the strongest like."""
    strongest = max((weight for _, weight in likes), default=1.0)
    veiled = sum(VEILS.get(shown, 0.0) * weight / strongest for shown, weight in likes)
    if veiled <= BEARABLE:
        return likes
    thinned = [(shown, weight * BEARABLE / veiled if shown in VEILS else weight) for shown, weight in likes]
    return sorted(thinned, key=lambda one: (-one[1], one[0]))


def likes_and_dislikes(profile: Profile, *, drawn: bool = True) -> tuple[Weighted, Weighted]:
    """Return what a `generator.Request` takes as likes and dislikes.

    With `drawn` it is for the shipped generator, in what that can draw; another one gets the person's own
    attributes.
    """
    if drawn:
        return drawable_attributes(profile)
    return (
        tuple((one.attribute, one.strength) for one in profile.likes),
        tuple((one.attribute, one.strength) for one in profile.dislikes),
    )
