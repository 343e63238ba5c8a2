"""The profile: merged over comments, the person's edits last, and exact when a comment is forgotten."""

import random
from dataclasses import replace

import pytest

from palate.client.taste.profile import (
    Conflict,
    Edit,
    Evidence,
    Preference,
    Profile,
    build_profile,
    decode_edits,
    encode_edits,
    lock_preference,
    name_version,
    set_preference,
    unlock_preference,
    unset_preference,
    veto_preference,
)
from palate.shared.attributes import Mention
from palate.shared.errors import OptionError, VaultDamagedError


def says(comment: str, *mentions: tuple[str, float], day: int = 1) -> Evidence:
    """A comment with mentions of attributes; a negative number is a dislike."""
    found = tuple(Mention(name, "mood", 1 if value > 0 else -1, abs(value), name) for name, value in mentions)
    return Evidence(comment, f"2026-01-{day:02}T00:00:00+00:00", found)


def test_no_comments_are_no_taste() -> None:
    assert build_profile([]) == Profile()


def test_one_full_mention_gives_three_fifths_and_more_give_more() -> None:
    strengths = []
    for count in (1, 2, 3, 50):
        (only,) = build_profile([says(f"c{i}", ("misty", 1.0)) for i in range(count)]).likes
        strengths.append(only.strength)
    assert strengths[:3] == pytest.approx([0.6, 0.84, 0.936])
    assert strengths[3] <= 1


def test_a_faint_mention_counts_less_and_repeating_it_in_one_comment_adds_nothing() -> None:
    (faint,) = build_profile([says("a", ("misty", 0.3))]).likes
    (twice,) = build_profile([says("a", ("misty", 0.3), ("misty", 0.3))]).likes
    (louder,) = build_profile([says("a", ("misty", 0.3), ("misty", 0.9))]).likes
    assert faint.strength == twice.strength == pytest.approx(1 - 0.4**0.3)
    assert louder.strength == pytest.approx(1 - 0.4**0.9)


def test_the_strongest_stands_first_and_evidence_is_kept_oldest_first() -> None:
    profile = build_profile(
        [
            says("b", ("misty", 0.5), ("busy", -1.0), day=2),
            says("a", ("misty", 0.5), ("calm", 0.9), day=1),
            says("c", ("neon", -0.2), day=3),
        ]
    )
    assert [one.attribute for one in profile.likes] == ["misty", "calm"]
    assert profile.likes[0] == Preference("misty", "mood", pytest.approx(0.6), ("a", "b"), quotes=("misty",))
    assert [one.attribute for one in profile.dislikes] == ["busy", "neon"]
    assert all(one.strength > 0 for one in profile.dislikes)
    assert profile.signed()["busy"] == pytest.approx(-0.6)


def test_a_conflict_goes_to_the_stronger_side_weakened_and_is_shown_with_both_sides() -> None:
    profile = build_profile([says("a", ("red", 1.0)), says("b", ("red", 1.0)), says("c", ("red", -0.5))])
    value = (1 - 0.4**1.7) * 0.7 / 1.7  # the contrary comment, the newest, left 0.6 of what was said before
    assert profile.likes == (Preference("red", "mood", pytest.approx(value), ("a", "b"), quotes=("red",)),)
    assert profile.dislikes == ()
    assert profile.conflicts == (Conflict("red", "mood", ("a", "b"), ("c",), pytest.approx(value)),)


@pytest.mark.parametrize("newer_likes", [True, False])
def test_of_two_contrary_comments_the_newer_counts_more_and_the_turn_is_told(newer_likes: bool) -> None:
    profile = build_profile(
        [
            says("a", ("red", 0.7), day=2 if newer_likes else 1),
            says("b", ("red", -0.7), day=1 if newer_likes else 2),
        ]
    )
    value = (1 - 0.4 ** (0.7 * 1.6)) * 0.4 / 1.6
    assert profile.signed() == {"red": pytest.approx(value if newer_likes else -value)}
    assert len(profile.conflicts) == 1
    (change,) = profile.changes
    assert (change.attribute, change.liked, change.comment) == (
        "red",
        newer_likes,
        "a" if newer_likes else "b",
    )


def test_two_contrary_comments_turn_what_three_said_before() -> None:
    liked = [says(f"{i}", ("neon", 1.0), day=i) for i in (1, 2, 3)]
    once = build_profile([*liked, says("4", ("neon", -1.0), day=4)])
    twice = build_profile([*liked, says("4", ("neon", -1.0), day=4), says("5", ("neon", -1.0), day=5)])
    assert once.signed()["neon"] > 0 > twice.signed()["neon"]
    assert [one.comment for one in twice.changes] == ["5"]
    assert once.changes == ()


def test_a_newer_word_on_the_same_picture_takes_the_place_of_the_older() -> None:
    liked = [replace(says(f"{i}", ("neon", 1.0), day=i), picture=f"p{i}") for i in (1, 2, 3)]
    hated = [replace(says(f"{i + 3}", ("neon", -1.0), day=i + 3), picture=f"p{i}") for i in (1, 2, 3)]
    profile = build_profile([*liked, *hated])
    assert profile.signed() == {"neon": pytest.approx(-(1 - 0.4**3))}
    assert profile.conflicts == ()


def test_what_means_the_same_is_one_entry_with_the_persons_own_words() -> None:
    said = (
        Mention("hazy fog", "atmosphere", 1, 0.8, "hazy fog", "foggy"),
        Mention("mist", "atmosphere", 1, 0.8, "Mist", "misty"),
    )
    (one,) = build_profile([Evidence("a", "2026-12-01T00:00:00+00:00", said)]).likes
    assert (one.attribute, one.quotes, one.words) == ("misty", ("mist", "hazy fog"), "mist")


def random_evidence(rng: random.Random, count: int) -> list[Evidence]:
    names = ["misty", "busy", "red", "calm", "neon"]
    return [
        says(
            f"c{i}",
            *[
                (rng.choice(names), rng.choice((-1, 1)) * rng.uniform(0.05, 1))
                for _ in range(rng.randrange(4))
            ],
            day=rng.randrange(1, 28),
        )
        for i in range(count)
    ]


def test_forgetting_a_comment_restores_the_profile_to_the_last_bit() -> None:
    rng = random.Random(3)
    for _ in range(100):
        evidence = random_evidence(rng, 12)
        edits = {"neon": Edit("neon", "palette", vetoed=True), "calm": Edit("calm", "mood", 0.25)}
        before = build_profile(evidence, edits)
        extra = says("new", ("misty", 0.77), ("red", -0.31), ("gloomy", 0.5), day=rng.randrange(1, 28))
        with_it = [*evidence, extra]
        rng.shuffle(with_it)
        assert build_profile(with_it, edits) != before
        with_it.remove(extra)
        assert build_profile(with_it, edits) == before


def test_the_order_of_the_comments_does_not_matter() -> None:
    rng = random.Random(4)
    evidence = random_evidence(rng, 30)
    before = build_profile(evidence)
    for _ in range(20):
        rng.shuffle(evidence)
        assert build_profile(evidence) == before


def test_strengths_stay_in_range_whatever_is_said() -> None:
    rng = random.Random(5)
    for _ in range(200):
        profile = build_profile(random_evidence(rng, rng.randrange(40)))
        assert all(0 < one.strength <= 1 for one in (*profile.likes, *profile.dislikes))
        assert not {one.attribute for one in profile.likes} & {one.attribute for one in profile.dislikes}


def test_ten_thousand_attributes_are_merged_in_a_moment() -> None:
    profile = build_profile(
        [says(f"c{i}", *((f"x{j}", 0.5) for j in range(100 * i, 100 * i + 100))) for i in range(100)]
    )
    assert len(profile.likes) == 10_000


# --- the person's edits -------------------------------------------------------------------------------------


def test_a_set_strength_beats_all_comments_until_it_is_taken_back() -> None:
    evidence = [says("a", ("red", 1.0)), says("b", ("red", 1.0))]
    edits = set_preference({}, "red", "colour", -0.3)
    profile = build_profile(evidence, edits)
    assert profile.likes == ()
    assert profile.dislikes == (Preference("red", "colour", 0.3, (), edited=True),)
    assert build_profile(evidence, unset_preference(edits, "red")) == build_profile(evidence)
    assert build_profile(evidence, set_preference(edits, "red", "colour", 0)).signed() == {}
    assert build_profile([], set_preference({}, "calm", "mood", 1)).signed() == {"calm": 1.0}


def test_a_lock_keeps_the_present_strength_whatever_is_said_later() -> None:
    evidence = [says("a", ("red", -1.0))]
    edits = lock_preference({}, build_profile(evidence), "red")
    later = [*evidence, *(says(f"n{i}", ("red", 1.0), day=9) for i in range(5))]
    (locked,) = build_profile(later, edits).dislikes
    assert locked.strength == pytest.approx(0.6)
    assert locked.locked
    for refused in (
        lambda: set_preference(edits, "red", "colour", 1),
        lambda: veto_preference(edits, "red", "colour"),
    ):
        with pytest.raises(OptionError, match="unlock"):
            refused()
    unlocked = unlock_preference(edits, "red")
    assert build_profile(later, set_preference(unlocked, "red", "colour", 1)).signed() == {"red": 1.0}


def test_a_lock_is_the_persons_own_act_and_outlives_the_comment() -> None:
    edits = lock_preference({}, build_profile([says("a", ("red", 1.0))]), "red")
    assert build_profile([], edits).likes == (Preference("red", "mood", 0.6, (), edited=True, locked=True),)


def test_a_veto_keeps_an_attribute_out_on_either_side() -> None:
    evidence = [says("a", ("red", 1.0), ("calm", 1.0)), says("b", ("red", -1.0))]
    profile = build_profile(evidence, veto_preference({}, "red", "colour"))
    assert profile.signed() == {"calm": pytest.approx(0.6)}
    assert profile.conflicts == ()
    assert profile.vetoed == ("red",)


@pytest.mark.parametrize("strength", [1.01, -2, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(OptionError, match="from -1 to 1"):
        set_preference({}, "red", "colour", strength)


def test_edits_that_make_no_sense_are_refused() -> None:
    profile = build_profile([])
    for wrong in (
        lambda: lock_preference({}, profile, "red"),
        lambda: unlock_preference({}, "red"),
        lambda: unset_preference({}, "red"),
        lambda: set_preference({}, "", "colour", 1),
        lambda: Edit("red", "colour"),
    ):
        with pytest.raises(OptionError):
            wrong()


def test_edits_come_back_from_their_bytes_and_nothing_else_does() -> None:
    edits = set_preference(veto_preference({}, "red", "colour"), "calm", "mood", 0.25)
    assert decode_edits(encode_edits(edits)) == edits
    assert decode_edits(encode_edits({})) == {}
    for wrong in (b"", b"[]", b'{"version": 2, "edits": []}', b'{"version": 1, "edits": [["red"]]}', b"\xff"):
        with pytest.raises(VaultDamagedError):
            decode_edits(wrong)


# --- how it is shown ----------------------------------------------------------------------------------------


def test_the_json_form_has_the_documented_keys() -> None:
    evidence = [says("a", ("misty", 1.0), ("red", -1.0)), says("b", ("red", 0.4)), says("c", ("neon", 1.0))]
    edits = {"neon": Edit("neon", "palette", vetoed=True), "calm": Edit("calm", "mood", 0.2, locked=True)}
    shown = build_profile(evidence, edits).to_json()
    assert shown["likes"] == [
        {"attribute": "misty", "category": "mood", "strength": 0.6, "comments": ["a"], "quotes": ["misty"]},
        {"attribute": "calm", "category": "mood", "strength": 0.2, "comments": [], "quotes": []},
    ]
    assert [one["attribute"] for one in shown["dislikes"]] == ["red"]
    (conflict,) = shown["conflicts"]
    assert conflict["liked_by"] == ["b"]
    assert conflict["disliked_by"] == ["a"]
    assert conflict["outcome"] == "disliked"
    assert (shown["edited"], shown["locked"], shown["vetoed"]) == (["calm"], ["calm"], ["neon"])


def test_a_version_names_a_state_and_tells_nothing_without_the_key() -> None:
    key, other = bytes(range(32)), bytes(32)
    evidence = [says("a", ("misty", 1.0))]
    name = name_version(build_profile(evidence), key)
    assert name == name_version(build_profile(evidence), key)
    assert len(name) == 12
    int(name, 16)
    changed = [
        build_profile([*evidence, says("b", ("misty", 0.1))]),
        build_profile([says("a", ("misty", -1.0))]),
        build_profile(evidence, veto_preference({}, "red", "colour")),
        Profile(),
    ]
    assert len({name, *(name_version(one, key) for one in changed)}) == 5
    assert name_version(build_profile(evidence), other) != name
    with pytest.raises(ValueError, match="16"):
        name_version(Profile(), b"short")
