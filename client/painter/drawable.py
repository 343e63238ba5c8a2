"""Which attributes of a profile the shipped generator takes: those that it can draw in one picture.

A profile is in open words; the shipped generator learned the attributes of its drawn world. Each preference
is translated into those by what it shows (`shared/vocabulary.toml`: "gloomy" shows dark and melancholic).
What several say of one attribute is joined as independent reasons for it, and against it (noisy-or, Pearl
1988): "empty space" beside "minimalist" makes that surer, and never twice as strong. A picture cannot be a
watercolour and a mosaic at once, so only the strongest like of each kind is taken, and only as many as the
generator met together while it learned. Likes that veil a picture (mist, rain, night, a wash of
watercolour) share the room of two of them; otherwise a person who likes five would no longer see the
subject. Dislikes exclude nothing, and all are taken.
"""

from collections.abc import Mapping

from palate.client.painter.conditioning import Weighted
from palate.client.taste import Profile
from palate.shared.attributes import Vocabulary, load_vocabulary

MOST_LIKES = 5
"""The generator met at most five attributes in one picture."""

SAME_KIND: Mapping[str, str] = {"brushwork": "technique", "temperature": "colour"}
"""Categories whose values exclude those of another: a mosaic has no brushstrokes."""

LEAST_WEIGHT = 0.05
"""A translation fainter than this says nothing."""

VEILS: Mapping[str, float] = {
    **dict.fromkeys(
        (
            "misty", "rainy", "snowy", "dark", "moonlit", "spotlit", "smooth", "calm", "melancholic",
            "dramatic", "dreamy", "joyful", "muted", "pastel", "pointillism", "mosaic", "stained glass",
            "crosshatching",
            "watercolour", "grainy", "canvas", "tilted", "busy", "flowing lines", "angular lines", "impasto",
            "swirling brushstrokes", "minimalist",
        ),
        1.0,
    ),
    "low contrast": 2.0,
}  # fmt: skip
"""What takes light, edges, shape or room from the subject, and how much of it."""

BEARABLE = 2.0
"""How much of that the generator met in one picture while it learned."""


def drawable_attributes(
    profile: Profile, vocabulary: Vocabulary | None = None
) -> tuple[tuple[Weighted, ...], tuple[Weighted, ...]]:
    """Return the likes and the dislikes to draw: attributes of the drawn world with weights in (0, 1].

    Each list comes with its strongest first.
    """
    vocabulary = vocabulary or load_vocabulary()
    no_reason_against: dict[str, float] = {}
    no_reason_for: dict[str, float] = {}
    for attribute, strength in profile.signed().items():
        for shown, weight in vocabulary.shows(attribute).items():
            worth = strength * weight
            left = no_reason_for if worth > 0 else no_reason_against
            left[shown] = left.get(shown, 1.0) * (1 - min(1.0, abs(worth)))
    wanted = {
        shown: no_reason_against.get(shown, 1.0) - no_reason_for.get(shown, 1.0)
        for shown in no_reason_for.keys() | no_reason_against.keys()
    }
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


def likes_and_dislikes(
    profile: Profile, *, drawn: bool = True
) -> tuple[tuple[Weighted, ...], tuple[Weighted, ...]]:
    """Return the likes and dislikes for a `generator.Request`, each with its strongest first.

    Args:
        profile: the person's.
        drawn: whether the shipped generator takes them, in what it can draw; another one takes the person's
            own words.
    """
    if drawn:
        return drawable_attributes(profile)
    return (
        tuple((one.words, one.strength) for one in profile.likes),
        tuple((one.words, one.strength) for one in profile.dislikes),
    )
