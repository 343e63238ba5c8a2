"""What of a profile the shipped generator is asked for."""

from __future__ import annotations

from palate.client.painter.drawable import BEARABLE, MOST_LIKES, VEILS, drawable_attributes
from palate.client.taste.profile import Evidence, Profile, build_profile
from palate.shared.attributes import Mention, load_vocabulary
from palate.simulations.world.truth import CATEGORY_OF, can_meet


def profile_of(*tastes: tuple[str, int, float]) -> Profile:
    vocabulary = load_vocabulary()
    mentions = tuple(
        Mention(name, vocabulary.category(name) or "", polarity, strength, name)
        for name, polarity, strength in tastes
    )
    return build_profile([Evidence("a", "2026-01-01T00:00:00+00:00", mentions)])


def test_an_empty_profile_asks_for_nothing() -> None:
    assert drawable_attributes(build_profile([])) == ((), ())


def test_open_words_become_what_they_show() -> None:
    likes, dislikes = drawable_attributes(profile_of(("gloomy", 1, 0.9), ("crimson", -1, 0.9)))
    assert "dark" in dict(likes)
    assert "red" in dict(dislikes)


def test_of_likes_that_exclude_each_other_only_the_strongest_is_asked_for() -> None:
    likes, _ = drawable_attributes(
        profile_of(("mosaic", 1, 0.4), ("watercolour", 1, 0.9), ("impasto", 1, 0.6))
    )
    assert [name for name, _ in likes] == ["watercolour"]


def test_dislikes_of_one_kind_all_count() -> None:
    _, dislikes = drawable_attributes(profile_of(("mosaic", -1, 0.4), ("watercolour", -1, 0.9)))
    assert [name for name, _ in dislikes] == ["watercolour", "mosaic"]


def test_no_more_is_asked_for_than_one_picture_bears() -> None:
    tastes = [("vibrant", 1, 0.9), ("red", 1, 0.8), ("bright", 1, 0.8), ("mosaic", 1, 0.8), ("busy", 1, 0.8)]
    likes, _ = drawable_attributes(profile_of(*tastes, ("joyful", 1, 0.8), ("bold outlines", 1, 0.7)))
    assert len(likes) == MOST_LIKES


def test_a_term_that_shows_the_opposite_of_another_taste_cancels_it() -> None:
    likes, dislikes = drawable_attributes(profile_of(("dark", 1, 0.8), ("bright", -1, 0.8)))
    assert "dark" in dict(likes)
    assert "bright" in dict(dislikes)
    assert not set(dict(likes)) & set(dict(dislikes))


def test_only_attributes_of_the_drawn_world_are_asked_for() -> None:
    vocabulary = load_vocabulary()
    every = profile_of(*((term.name, 1 if i % 2 else -1, 0.5) for i, term in enumerate(vocabulary.terms)))
    likes, dislikes = drawable_attributes(every)
    assert {name for name, _ in (*likes, *dislikes)} <= set(CATEGORY_OF)


def test_many_veils_share_the_room_of_two_and_other_likes_keep_theirs() -> None:
    tastes = [("misty", 1, 0.9), ("calm", 1, 0.9), ("watercolour", 1, 0.9), ("minimalist", 1, 0.9)]
    alone, _ = drawable_attributes(profile_of(*tastes[:2], ("blue", 1, 0.9)))
    together, _ = drawable_attributes(profile_of(*tastes, ("blue", 1, 0.9)))
    assert dict(together)["blue"] == dict(alone)["blue"] == together[0][1]
    assert dict(together)["misty"] < 0.7 * dict(alone)["misty"]
    whole = sum(VEILS.get(name, 0) * weight for name, weight in together) / together[0][1]
    assert whole <= BEARABLE + 1e-9


def test_what_counts_as_a_veil_is_what_the_world_draws_two_of_at_most() -> None:
    both = ("misty", "dreamy")
    no_third = {name for name in CATEGORY_OF if name not in both and not can_meet(name, both)}
    assert no_third >= set(VEILS) - {*both, "minimalist"}


def test_terms_that_show_the_same_make_it_surer_and_never_twice_as_strong() -> None:
    together = dict(
        drawable_attributes(profile_of(("minimalist", 1, 0.6), ("empty space", 1, 0.6), ("blue", 1, 0.9)))[0]
    )
    alone = dict(drawable_attributes(profile_of(("minimalist", 1, 0.6), ("blue", 1, 0.9)))[0])
    assert alone["minimalist"] < together["minimalist"] < 2 * alone["minimalist"]
    joined = dict(
        drawable_attributes(
            profile_of(*((name, 1, 1.0) for name in ("minimalist", "empty space", "sparse")))
        )[0]
    )
    assert joined["minimalist"] < 1
