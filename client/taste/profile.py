"""What a person likes and dislikes, merged over all comments and edited by hand.

The third step of the flow: the reader finds mentions in each comment, `build_profile` merges them, and
painter, evaluator and adapter start from the result. The profile is a pure function of the comments that are
kept and of the person's edits. It is computed each time, and does not depend on their order. So
forgetting a comment is exact: without it, the profile is what it would be had the comment never been given.

**How mentions become a strength.** Per attribute, each comment counts once per side, with its strongest
mention s in (0, 1]. With L and D the sums over comments that like and dislike it:

    strength = (1 − 0.4^(L + D)) · |L − D| / (L + D)        liked if L > D, disliked if L < D

The first factor says how much has been said: one full mention gives 0.6, two 0.84, three 0.94, as each closes
60 % of the gap to 1. The second says how much of it agrees. If both sides are equally strong, the newer
comment's side wins at a tenth of the strength. An attribute with mentions on both sides is listed as a
conflict, with both sides' comments.

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
from palate.shared.attributes import Mention
from palate.shared.errors import OptionError, VaultDamagedError

REMAINDER = 0.4  # of the way to full strength, left after one full mention
TIE_SHARE = 0.1


@dataclass(frozen=True)
class Evidence:
    """One comment and what was found in it."""

    comment: str  # the comment's id
    created: str  # ISO 8601, UTC, so that text order is time order
    mentions: tuple[Mention, ...]


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


@dataclass(frozen=True)
class Conflict:
    """An attribute that some comments like and others dislike, and what came of it."""

    attribute: str
    category: str
    liked_by: tuple[str, ...]
    disliked_by: tuple[str, ...]
    outcome: float  # signed: above 0 it counts as liked, below 0 as disliked, 0 as neither


@dataclass(frozen=True)
class Profile:
    """A person's taste; likes and dislikes are sorted, the strongest first."""

    likes: tuple[Preference, ...] = ()
    dislikes: tuple[Preference, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    vetoed: tuple[str, ...] = ()

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
        }


def build_profile(evidence: Sequence[Evidence], edits: Edits | Iterable[Edit] = ()) -> Profile:
    """Merge the mentions of all comments, then let the person's edits have the last word.

    The module's docstring has the formula.

    Args:
        evidence: in any order.
        edits: by attribute, or one for each attribute.
    """
    by_attribute = edits if isinstance(edits, Mapping) else {edit.attribute: edit for edit in edits}
    sides: dict[str, _Sides] = {}
    for one in sorted(evidence, key=lambda item: (item.created, item.comment)):
        for mention in one.mentions:
            sides.setdefault(mention.name, _Sides()).add(one.comment, mention)
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
        preference = Preference(attribute, category, abs(value), said, edit is not None, locked)
        (likes if value > 0 else dislikes).append(preference)
    vetoed = tuple(sorted(edit.attribute for edit in by_attribute.values() if edit.vetoed))
    return Profile(_strongest_first(likes), _strongest_first(dislikes), tuple(conflicts), vetoed)


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
    return Evidence(taught.comment.id, taught.comment.created, taught.mentions)


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

    def __init__(self) -> None:
        self.liked: dict[str, float] = {}
        self.disliked: dict[str, float] = {}
        self.category = ""
        self._newest_liked = True

    def add(self, comment: str, mention: Mention) -> None:
        side = self.liked if mention.polarity > 0 else self.disliked
        side[comment] = max(side.get(comment, 0.0), mention.strength)
        self.category = mention.category
        self._newest_liked = mention.polarity > 0

    def value(self) -> float:
        # fsum rounds once, at the end: the sum is the same in whatever order comments came and went.
        liked, disliked = math.fsum(self.liked.values()), math.fsum(self.disliked.values())
        said = 1 - math.pow(REMAINDER, liked + disliked)
        if math.isclose(liked, disliked, abs_tol=1e-9):
            return TIE_SHARE * said * (1 if self._newest_liked else -1)
        return said * (liked - disliked) / (liked + disliked)


def _strongest_first(preferences: list[Preference]) -> tuple[Preference, ...]:
    return tuple(sorted(preferences, key=lambda one: (-one.strength, one.attribute)))


def _preference_json(one: Preference) -> dict[str, Any]:
    return {
        "attribute": one.attribute,
        "category": one.category,
        "strength": round(one.strength, 4),
        "comments": list(one.comments),
    }


def _outcome(value: float) -> str:
    if value == 0:
        return "neither"
    return "liked" if value > 0 else "disliked"


def _refuse_locked(edits: Edits, attribute: str) -> None:
    edit = edits.get(attribute)
    if edit is not None and edit.locked:
        raise OptionError(f"{attribute!r} is locked; unlock it first")
