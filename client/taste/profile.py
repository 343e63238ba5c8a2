"""What a person likes and dislikes, merged over all comments and edited by hand.

The third step of the flow: the reader finds mentions in each comment, `build_profile` merges them, and
painter, evaluator and adapter start from the result. The profile is a pure function of the comments that are
kept and of the person's edits. It is computed each time, and does not depend on their order. So
forgetting a comment is exact: without it, the profile is what it would be had the comment never been given.

**How mentions become a strength.** Per attribute, each comment counts once per side, with its strongest
mention s in (0, 1]. With L and D the sums over comments that like and dislike it:

    strength = (1 − 0.4^(L + D)) · |L − D| / (L + D)        liked if L > D, disliked if L < D

The first factor says how much has been said: one full mention gives 0.6, two 0.84, three 0.94, as each closes
60 % of the gap to 1. The second says how much of it agrees. An attribute with mentions on both sides is
listed as a conflict, with both sides' comments.

**The newest word counts.** What a person says of an attribute on a picture takes the place of what they said
of it on that picture before. What they say of it on others fades the other side to `FADES` of what it was,
each time: taste changes, and two contrary comments turn what three said before. Where the sign has turned,
the profile says since when.

**The person has the last word.** `set` gives an attribute a strength whatever the comments say. `lock` keeps
the value it has now, and refuses further edits until it is unlocked. `veto` keeps it out of the profile. An
edit is the person's own act and stays when comments are forgotten.
"""

import hashlib
import hmac
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palate.client.records import EDITS, Taught
from palate.client.vault.store import ONLY, Records
from palate.shared.attributes import Mention, load_vocabulary
from palate.shared.errors import OptionError, VaultDamagedError

REMAINDER = 0.4  # of the way to full strength, left after one full mention
FADES = 0.6
"""What is left of one side of an attribute when a newer comment takes the other."""
MOST_QUOTES = 5


@dataclass(frozen=True)
class Evidence:
    """One comment and what was found in it."""

    comment: str  # the comment's id
    created: str  # ISO 8601, UTC, so that text order is time order
    mentions: tuple[Mention, ...]
    picture: str | None = None


@dataclass(frozen=True)
class Edit:
    """What a person decided about one attribute: a signed strength, a lock on it, or a veto."""

    attribute: str
    category: str
    strength: float | None = None  # -1 (dislike) to 1 (like); None only with a veto
    locked: bool = False
    vetoed: bool = False

    def __post_init__(self) -> None:
        """Refuse a strength outside -1 to 1, and an edit that says nothing; raises `OptionError`."""
        if not self.attribute or not self.category:
            raise OptionError("an edit needs an attribute and its category")
        if self.strength is None:
            if not self.vetoed or self.locked:
                raise OptionError(f"the edit of {self.attribute!r} needs a strength from -1 to 1, or a veto")
        elif not (math.isfinite(self.strength) and -1 <= self.strength <= 1):
            raise OptionError(
                f"the strength of {self.attribute!r} is {self.strength}; it must be from -1 to 1"
            )


Edits = Mapping[str, Edit]  # by attribute


@dataclass(frozen=True)
class Preference:
    """One attribute that is liked, or disliked, with the comments that said so."""

    attribute: str
    category: str
    strength: float  # in (0, 1]
    comments: tuple[str, ...]  # oldest first; empty if only the person's edit says so
    edited: bool = False  # the strength is the person's own
    locked: bool = False
    quotes: tuple[str, ...] = ()  # the person's own words for it, the newest first

    @property
    def words(self) -> str:
        """What to call it to somebody who understands language: the person's newest words."""
        return self.quotes[0] if self.quotes else self.attribute


@dataclass(frozen=True)
class Conflict:
    """An attribute that some comments like and others dislike, and what came of it."""

    attribute: str
    category: str
    liked_by: tuple[str, ...]
    disliked_by: tuple[str, ...]
    outcome: float  # signed: above 0 it counts as liked, below 0 as disliked, 0 as neither


@dataclass(frozen=True)
class Change:
    """An attribute whose sign has turned: with which comment, and when."""

    attribute: str
    liked: bool  # since then
    comment: str
    created: str


@dataclass(frozen=True)
class Profile:
    """A person's taste; likes and dislikes are sorted, the strongest first."""

    likes: tuple[Preference, ...] = ()
    dislikes: tuple[Preference, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    vetoed: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    def signed(self) -> dict[str, float]:
        """Return attribute -> strength, negative for dislikes: the short form that models take."""
        liked = {one.attribute: one.strength for one in self.likes}
        return liked | {one.attribute: -one.strength for one in self.dislikes}

    def to_json(self) -> dict[str, Any]:
        """Return the profile as `palate profile --json` prints it."""
        return {
            "likes": [_preference_json(one) for one in self.likes],
            "dislikes": [_preference_json(one) for one in self.dislikes],
            "conflicts": [
                {
                    "attribute": one.attribute,
                    "category": one.category,
                    "liked_by": list(one.liked_by),
                    "disliked_by": list(one.disliked_by),
                    "outcome": _outcome(one.outcome),
                    "strength": round(abs(one.outcome), 4),
                }
                for one in self.conflicts
            ],
            "edited": [one.attribute for one in (*self.likes, *self.dislikes) if one.edited],
            "locked": [one.attribute for one in (*self.likes, *self.dislikes) if one.locked],
            "vetoed": list(self.vetoed),
            "changes": [
                {"attribute": one.attribute, "liked": one.liked, "comment": one.comment, "since": one.created}
                for one in self.changes
            ],
        }


def build_profile(evidence: Sequence[Evidence], edits: Edits | Iterable[Edit] = ()) -> Profile:
    """Merge the mentions of all comments, then let the person's edits have the last word.

    The module's docstring has the formula.

    Args:
        evidence: in any order.
        edits: by attribute, or one for each attribute.
    """
    by_attribute = edits if isinstance(edits, Mapping) else {edit.attribute: edit for edit in edits}
    vocabulary = load_vocabulary()
    sides: dict[str, _Sides] = {}
    for one in sorted(evidence, key=lambda item: (item.created, item.comment)):
        for mention in one.mentions:
            name = vocabulary.same(mention.name)
            sides.setdefault(name, _Sides(name)).add(one, mention)
    likes: list[Preference] = []
    dislikes: list[Preference] = []
    conflicts: list[Conflict] = []
    for attribute in sorted(sides.keys() | by_attribute.keys()):
        side, edit = sides.get(attribute, _Sides()), by_attribute.get(attribute)
        if edit is not None and edit.vetoed:
            continue
        category = side.category if edit is None else edit.category
        value = side.value() if edit is None or edit.strength is None else edit.strength
        if side.liked and side.disliked:
            conflicts.append(Conflict(attribute, category, tuple(side.liked), tuple(side.disliked), value))
        if value == 0:
            continue
        said = tuple(side.liked if value > 0 else side.disliked)
        locked = edit is not None and edit.locked
        quotes = side.quotes(value > 0)
        preference = Preference(attribute, category, abs(value), said, edit is not None, locked, quotes)
        (likes if value > 0 else dislikes).append(preference)
    vetoed = tuple(sorted(edit.attribute for edit in by_attribute.values() if edit.vetoed))
    changes = sorted(
        (side.change for name, side in sides.items() if side.change is not None and name not in by_attribute),
        key=lambda one: (one.created, one.attribute),
    )
    return Profile(
        _strongest_first(likes), _strongest_first(dislikes), tuple(conflicts), vetoed, tuple(changes)
    )


def set_preference(edits: Edits, attribute: str, category: str, strength: float) -> dict[str, Edit]:
    """Give an attribute a strength from -1 to 1 by hand (0: neither).

    Raises `OptionError` if it is locked.
    """
    _refuse_locked(edits, attribute)
    return {**edits, attribute: Edit(attribute, category, float(strength))}


def lock_preference(edits: Edits, profile: Profile, attribute: str) -> dict[str, Edit]:
    """Keep an attribute at the strength it has in `profile`.

    Raises `OptionError` if it is in neither list.
    """
    for sign, preferences in ((1, profile.likes), (-1, profile.dislikes)):
        for one in preferences:
            if one.attribute == attribute:
                return {**edits, attribute: Edit(attribute, one.category, sign * one.strength, locked=True)}
    raise OptionError(f"{attribute!r} is not in the profile, so there is nothing to lock; set it first")


def veto_preference(edits: Edits, attribute: str, category: str) -> dict[str, Edit]:
    """Keep an attribute out of the profile, liked or disliked; raises `OptionError` if it is locked."""
    _refuse_locked(edits, attribute)
    return {**edits, attribute: Edit(attribute, category, vetoed=True)}


def unlock_preference(edits: Edits, attribute: str) -> dict[str, Edit]:
    """Open a locked attribute to edits again, at the same strength.

    Raises `OptionError` if it is not locked.
    """
    edit = edits.get(attribute)
    if edit is None or not edit.locked:
        raise OptionError(f"{attribute!r} is not locked")
    return {**edits, attribute: replace(edit, locked=False)}


def unset_preference(edits: Edits, attribute: str) -> dict[str, Edit]:
    """Take back every edit of an attribute (lock and veto too), so that the comments speak again.

    Raises `OptionError` if there is none.
    """
    if attribute not in edits:
        raise OptionError(f"{attribute!r} was not edited, so there is nothing to take back")
    return {name: edit for name, edit in edits.items() if name != attribute}


def evidence_of(taught: Taught) -> Evidence:
    """Return the part of a kept comment that the profile is built from."""
    return Evidence(taught.comment.id, taught.comment.created, taught.mentions, taught.comment.picture)


def newest_verdicts(taught: Sequence[Taught]) -> list[Taught]:
    """Return, for each picture with a verdict, what was taught with the newest one.

    A picture counts once, however often it was taught. It keeps the place of its first verdict, so that a
    repeated verdict changes nothing at all.

    Args:
        taught: the oldest first, as `Device.comments` returns them.
    """
    newest: dict[str, Taught] = {}
    for one in taught:
        if one.comment.liked is not None and one.comment.picture is not None:
            newest[one.comment.picture] = one
    return list(newest.values())


def read_edits(records: Records) -> dict[str, Edit]:
    """Return what the person decided by hand; nothing if nothing was. Raises `VaultDamagedError`."""
    return decode_edits(records.get(EDITS, ONLY)) if records.has(EDITS, ONLY) else {}


def encode_edits(edits: Edits) -> bytes:
    """Return the edits as the bytes of a vault's record."""
    rows = [[e.attribute, e.category, e.strength, e.locked, e.vetoed] for _, e in sorted(edits.items())]
    return json.dumps({"version": 1, "edits": rows}).encode()


def decode_edits(data: bytes) -> dict[str, Edit]:
    """Read what `encode_edits` wrote; raises `VaultDamagedError` for anything else."""
    try:
        content = json.loads(data)
        if content["version"] != 1:
            raise ValueError("unknown version")
        return {row[0]: Edit(*row) for row in content["edits"]}
    except (ValueError, KeyError, TypeError, IndexError, OptionError):
        raise VaultDamagedError("the record of the profile's edits cannot be read by this version") from None


def name_version(profile: Profile, key: bytes) -> str:
    """Return 12 hexadecimal digits that name this state of the profile, for the pictures made with it.

    The same profile has the same name, a changed one another. The name is a keyed hash (HMAC-SHA256) under a
    random key of 32 bytes that stays in the vault. A plain hash could be guessed, since there are few
    attributes, and pictures travel with their metadata. Without the key the name says only that two pictures
    were made with the same profile.
    """
    if len(key) < 16:
        raise ValueError(f"the key has {len(key)} bytes; it must have at least 16 random ones")
    state = [
        sorted((name, round(value, 6)) for name, value in profile.signed().items()),
        sorted(profile.vetoed),
    ]
    return hmac.digest(key, b"palate profile version 1" + json.dumps(state).encode(), hashlib.sha256).hex()[
        :12
    ]


class _Sides:
    """What comments said about one attribute so far: comment to strongest mention, for and against."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.liked: dict[str, float] = {}
        self.disliked: dict[str, float] = {}
        self.category = ""
        self.change: Change | None = None
        self._pictures: dict[str, str] = {}  # the picture of each comment
        self._said: list[tuple[bool, str]] = []

    def add(self, one: Evidence, mention: Mention) -> None:
        """Count a mention of the newest comment so far."""
        likes = mention.polarity > 0
        side, other = (self.liked, self.disliked) if likes else (self.disliked, self.liked)
        before = self.value() if other else 0.0  # what nobody contradicts does not turn
        if other and one.comment not in side and one.comment not in other:
            for earlier in [c for c in other if one.picture and self._pictures.get(c) == one.picture]:
                del other[earlier]
            for earlier in other:
                other[earlier] *= FADES
        side[one.comment] = max(side.get(one.comment, 0.0), mention.strength)
        if one.picture is not None:
            self._pictures[one.comment] = one.picture
        self._said.append((likes, mention.attribute))
        self.category = mention.category
        if before and before * self.value() < 0:
            self.change = Change(self.name, likes, one.comment, one.created)

    def quotes(self, liked: bool) -> tuple[str, ...]:
        """Return the person's own words on one side, the newest first, each once."""
        return tuple(dict.fromkeys(words for side, words in reversed(self._said) if side is liked))[
            :MOST_QUOTES
        ]

    def value(self) -> float:
        """Return the signed strength, above 0 for liked."""
        # fsum rounds once, at the end: the sum does not depend on the order of comments of one time.
        liked, disliked = math.fsum(self.liked.values()), math.fsum(self.disliked.values())
        if math.isclose(liked, disliked, abs_tol=1e-9):
            return 0.0
        return (1 - math.pow(REMAINDER, liked + disliked)) * (liked - disliked) / (liked + disliked)


def _strongest_first(preferences: list[Preference]) -> tuple[Preference, ...]:
    return tuple(sorted(preferences, key=lambda one: (-one.strength, one.attribute)))


def _preference_json(one: Preference) -> dict[str, Any]:
    return {
        "attribute": one.attribute,
        "category": one.category,
        "strength": round(one.strength, 4),
        "comments": list(one.comments),
        "quotes": list(one.quotes),
    }


def _outcome(value: float) -> str:
    if value == 0:
        return "neither"
    return "liked" if value > 0 else "disliked"


def _refuse_locked(edits: Edits, attribute: str) -> None:
    edit = edits.get(attribute)
    if edit is not None and edit.locked:
        raise OptionError(f"{attribute!r} is locked; unlock it first")
