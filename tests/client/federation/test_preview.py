"""What would leave, before it does: the numbers are those of a round, the words stay on the screen, and
nothing is sent."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palate.client.demo.showcase import demo_folder
from palate.client.device import Device
from palate.client.federation.consent import Terms, agree
from palate.client.federation.exposed import what_is_not_protected
from palate.client.federation.local_training import LEAST_LABELS, Labels, train_locally
from palate.client.federation.member import Member
from palate.client.federation.outbox import Sent, read_outbox, what_leaves
from palate.client.federation.preview import (
    Preview,
    measure_noise,
    preview_device,
    preview_update,
    usual_round,
)
from palate.client.federation.preview_words import describe_bytes, describe_shortly
from palate.client.privacy.budget import OwnBudget, book_round, write_budget
from palate.client.reader.comment import Comment
from palate.client.records import Taught
from palate.server.secure_sum.privacy import Privacy
from palate.server.secure_sum.unmasking import MaskedSum
from palate.shared.accounting import epsilon_of_rho, rho_of
from palate.shared.coding import encode_model, sensitivity_of
from palate.shared.encoder import PICTURE_FEATURES, SENTENCE_FEATURES, SHARED_SHAPES, load_encoder
from palate.shared.errors import OptionError
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.messages import Invitation, encode_invitation
from palate.shared.subspace import load_subspace, subspace_hash
from palate.shared.sum_noise import SumNoise
from palate.shared.update import LocalSettings, norm_of
from palate.shared.wire import UPDATE_BYTES, fixed_hash
from palate.simulations.engine.virtual_people import VirtualPerson
from tests.signed import signed

NEEDLE = "Grandmother Ottilie"
TERMS = Terms("127.0.0.1:8000")


def make_labels(count: int, seed: int = 1) -> Labels:
    rng = np.random.default_rng(seed)
    t = load_encoder().tensors
    features = t["feature.mean"] + 0.5 * t["feature.scale"] * rng.standard_normal((count, PICTURE_FEATURES))
    phrases = rng.standard_normal((count, SENTENCE_FEATURES))
    phrases /= np.linalg.norm(phrases, axis=1, keepdims=True)
    return Labels(features.astype(np.float32), np.arange(count) % 2 == 0, phrases.astype(np.float32))


def make_comments(labels: Labels) -> list[Taught]:
    return [
        Taught(
            Comment(f"id{i:02}", f"{NEEDLE} number {i}", bool(liked), "ab" * 32, f"2026-01-01T00:00:{i:02}"),
            (),
        )
        for i, liked in enumerate(labels.liked)
    ]


def preview(labels: Labels, **options: Any) -> Preview:
    terms = options.pop("terms", TERMS)
    return preview_update(load_encoder(), labels, make_comments(labels), terms, **({"draws": 8} | options))


# --- too little to leave ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, LEAST_LABELS - 1])
def test_with_too_few_labels_the_same_bytes_leave_and_nothing_is_in_them(count: int) -> None:
    seen = preview(make_labels(count))
    assert (seen.learned, seen.labels, seen.tensors, seen.norm) == (False, count, (), 0.0)
    assert seen.to_json()["learned"] is False
    assert seen.leaving == preview(make_labels(9)).leaving
    lines = describe_shortly(seen)
    assert lines[0] == describe_shortly(preview(make_labels(9)))[0]
    assert lines[1] == (
        f"under noise and mask a change of nothing: {count} labels, and to learn from them takes 6"
    )


def test_with_just_enough_labels_there_is_none_to_leave_out() -> None:
    seen = preview(make_labels(LEAST_LABELS))
    assert seen.learned
    assert seen.influences == ()


def test_comments_that_are_not_those_of_the_labels_are_refused() -> None:
    labels = make_labels(8)
    with pytest.raises(OptionError, match="7 comments for 8 labels"):
        preview_update(load_encoder(), labels, make_comments(labels)[1:], TERMS)


# --- the change ---------------------------------------------------------------------------------------------


def test_the_tensors_are_those_of_a_round_and_clipped_together() -> None:
    labels = make_labels(12)
    update = train_locally(load_encoder(), labels, LocalSettings(), round=1, seed=0)
    within = load_subspace()
    sent = within.coordinates(update.tensors)
    masks = MaskSettings(clip=float(np.linalg.norm(sent)) / 4)
    seen = preview(labels, masks=masks)
    parts = within.change(sent)
    assert [(one.name, one.shape) for one in seen.tensors] == list(SHARED_SHAPES.items())
    for one in seen.tensors:
        assert one.norm == norm_of(update.tensors[one.name])
        assert one.norm_clipped == pytest.approx(norm_of(parts[one.name]) / 4)
    assert (seen.leaving.numbers, seen.norm) == (within.count + 1, pytest.approx(float(np.linalg.norm(sent))))
    assert seen.norm_clipped == pytest.approx(masks.clip)
    moved = {one.name for one in seen.tensors if one.norm_clipped}
    assert moved == {"picture.taste.weight", "picture.taste.bias"}


def test_a_change_within_the_bound_is_not_clipped() -> None:
    seen = preview(make_labels(12), masks=MaskSettings(clip=1000.0))
    assert seen.norm_clipped == seen.norm > 0


def test_the_bytes_are_those_of_the_bits_that_go() -> None:
    assert load_subspace().count == 4_096
    beside = 8 + 32 + 32 + 64  # start, session, identity, signature
    assert preview(make_labels(6), masks=MaskSettings(ring_bits=8)).leaving.bytes_up == 4_097 + beside
    assert preview(make_labels(6), masks=MaskSettings(ring_bits=11)).leaving.bytes_up == 5_634 + beside
    assert preview(make_labels(6)).leaving_unmasked is None
    unmasked = preview(make_labels(6), terms=replace(TERMS, allow_unmasked=True))
    assert unmasked.leaving_unmasked == what_leaves()
    assert what_leaves().bytes_up == UPDATE_BYTES
    assert "much of what it was trained on can be rebuilt" in " ".join(describe_shortly(unmasked))


def test_the_same_labels_give_the_same_preview() -> None:
    assert preview(make_labels(9)) == preview(make_labels(9))


# --- noise against signal -----------------------------------------------------------------------------------


def test_noise_is_what_one_computes_by_hand() -> None:
    masks = MaskSettings(
        step=0.01, noise=100.0, clip=10.0, least=3
    )  # a standard deviation of 1 for each weight
    noise = measure_noise(4.0, masks, least_devices=25, count=96_640, honest_share=1.0)
    assert noise.own == pytest.approx(math.sqrt(96_640))
    assert noise.in_sum == pytest.approx(5 * math.sqrt(96_640))
    assert (noise.devices, noise.signal) == (25, 4.0)
    reach = sensitivity_of(10.0, 0.01) * 0.01  # a little more than 10, for rounding and the vote
    assert 10 < reach < 10.5
    assert noise.multiplier == pytest.approx(5 / reach, rel=1e-6)
    assert noise.guess == pytest.approx(0.5 * (1 + math.erf(reach / 10 / math.sqrt(2))), abs=1e-6)
    doubtful = measure_noise(4.0, masks, 25, 96_640, honest_share=0.16)
    assert doubtful.multiplier == pytest.approx(2 / reach, rel=1e-6)
    assert doubtful.guess > noise.guess
    careful = measure_noise(4.0, masks, 25, 96_640)
    assert careful.multiplier == careful.multiplier_alone == pytest.approx(1 / reach, rel=1e-6)
    assert careful.multiplier_if_all_add == noise.multiplier == noise.multiplier_if_all_add
    assert measure_noise(4.0, masks, 2, 96_640).devices == 3  # the server opens no smaller sum
    assert measure_noise(4.0, replace(masks, noise=0.0), 25, 96_640).guess == 1.0


def test_the_best_guess_is_as_often_right_as_it_says() -> None:
    masks, devices, tries = MaskSettings(step=0.01, noise=100.0, clip=6.0, least=2), 9, 20_000
    rng = np.random.default_rng(5)
    # What somebody sees who has taken everybody else's change out of the sum, along the direction of this
    # device's.
    noise = masks.noise * masks.step * rng.standard_normal((2, tries, devices)).sum(2)
    reach = sensitivity_of(masks.clip, masks.step) * masks.step
    right = ((noise[0] + reach > reach / 2).mean() + (noise[1] < reach / 2).mean()) / 2
    assert right == pytest.approx(measure_noise(6.0, masks, devices, 96_640, 1.0).guess, abs=0.01)


@pytest.mark.parametrize("devices", [2, 10, 1_000])
def test_the_usual_round_has_as_much_noise_as_a_server_begins_with(devices: int) -> None:
    masks = usual_round(devices)
    assert (masks.clip, masks.least) == (Privacy().clip, devices)
    noise = measure_noise(1.0, masks, devices, load_subspace().count)
    assert noise.multiplier == pytest.approx(Privacy().noise_multiplier, rel=0.01)
    assert noise.guess == pytest.approx(0.5497, abs=0.002)  # Phi(1/8)


def test_the_last_masked_round_says_how_much_noise_to_expect() -> None:
    left = what_leaves(load_subspace().count, 20)
    note = Sent(
        "x", "x", "x", 0, "x", 1, left.kind, left.bytes_up, left.numbers, left.bits, left.within, "x", None,
        (),
        True, masked=True, clip=0.5, noise=0.25,
    )  # fmt: skip
    masks = usual_round(10, note)
    assert (masks.clip, masks.noise * masks.step) == (0.5, pytest.approx(0.25))
    assert masks.ring_bits == 20


# --- which comment moves it most ----------------------------------------------------------------------------


def test_the_comment_that_is_unlike_all_others_moves_the_change_most() -> None:
    who = [0, 1, 0, 1, 0, 1, 0, 2, 0, 1, 0, 1]  # two comments again and again, and one other
    found = 0
    for seed in range(1, 6):  # pictures and words are random: now and then one that comes often weighs more
        three = make_labels(3, seed)
        seen = preview(Labels(three.features[who], three.liked[who], three.phrases[who]), last=12, draws=16)
        if seen.influences[0].comment == "id07":
            found += 1
            assert seen.influences[0].words == f"{NEEDLE} number 7"
            assert seen.influences[0].cosine < seen.chance
    assert found >= 4


def test_a_comment_that_says_what_others_say_cannot_be_told_from_chance() -> None:
    labels = make_labels(6)
    many = Labels(*(np.concatenate([part] * 8) for part in (labels.features, labels.liked, labels.phrases)))
    seen = preview(many, last=1, draws=32)
    single = preview(labels_without_copies := make_labels(7), last=1, draws=32)
    assert len(labels_without_copies) == 7
    assert seen.influences[0].cosine > single.influences[0].cosine
    assert seen.chance - seen.influences[0].cosine < 0.02


def test_only_the_last_comments_are_left_out_the_strongest_first() -> None:
    seen = preview(make_labels(12), last=3)
    assert {one.comment for one in seen.influences} == {"id09", "id10", "id11"}
    assert [one.cosine for one in seen.influences] == sorted(one.cosine for one in seen.influences)
    assert [one.liked for one in sorted(seen.influences, key=lambda one: one.comment)] == [False, True, False]


# --- what is said -------------------------------------------------------------------------------------------


def test_json_names_comments_by_their_ids_and_never_by_their_words() -> None:
    seen = preview(make_labels(9))
    text = json.dumps(seen.to_json(), allow_nan=False)
    assert NEEDLE not in text
    assert '"comment": "id08"' in text
    assert NEEDLE in repr(seen)  # and the search finds it where it is


def test_what_is_not_protected_follows_from_the_terms() -> None:
    open_ = " ".join(what_is_not_protected(TERMS))
    assert "can invent the other devices" in open_
    assert "no release key is pinned" in open_
    assert "at least" not in open_
    assert "its own noise alone, which is what the budget counts" in open_
    assert "can be rebuilt" not in open_
    pinned = " ".join(what_is_not_protected(replace(TERMS, registrar="ab" * 32, release_key="cd" * 32)))
    assert "pinned" not in pinned
    assert "sum over at least 10 devices" in pinned
    assert "counts on 50% of the devices" in pinned
    assert "can be rebuilt" in " ".join(what_is_not_protected(replace(TERMS, allow_unmasked=True)))


# --- nothing is sent ----------------------------------------------------------------------------------------

WATCHED = """
import sys
seen = []
def watch(event, arguments):
    if event.startswith("socket."):
        seen.append(event)
sys.addaudithook(watch)
{code}
print("SOCKETS", seen)
"""
LOOK = """
from palate.client.commands.cli import app
for options in ([], ["--json"]):
    try:
        app(["outbox", "--preview", *options])
    except SystemExit as end:
        assert not end.code, end.code
"""
SEND = "import socket; socket.socket().close()"


def watched(code: str, home: Path) -> str:
    """Run code in a fresh process that notes every use of a socket; returns what it prints."""
    environment = os.environ | {
        "PALATE_HOME": str(home),
        "PALATE_PASSPHRASE": "correct horse",
        "COLUMNS": "160",
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(code=code)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_preview_opens_no_socket_and_leaves_nothing_in_the_outbox(taught: Path) -> None:
    shown = watched(LOOK, taught)
    assert shown.endswith("SOCKETS []\n")
    assert "this would leave" in shown
    assert '"learned": true' in shown
    with Device.open(taught, "correct horse") as device:
        assert read_outbox(device.vault) == []


def test_the_watch_sees_a_socket_that_is_opened(tmp_path: Path) -> None:
    assert "socket.__new__" in watched(SEND, tmp_path)


# --- whether it would take part -----------------------------------------------------------------------------

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with twelve verdicts on pictures."""
    home = tmp_path_factory.mktemp("taught") / "palate"
    with Device.init(home, "correct horse") as device:
        device.teach_file(demo_folder() / "mara.json")
    return home


@pytest.fixture
def device(taught: Path, tmp_path: Path, remembered_keys: None) -> Iterator[Device]:
    """An open copy of that vault."""
    with Device.open(shutil.copytree(taught, tmp_path / "palate"), "correct horse") as opened:
        yield opened


def test_the_outbox_notes_the_very_bytes_that_the_preview_shows(device: Device) -> None:
    terms = replace(TERMS, least_devices=2, epsilon=1e4)
    agree(device.vault, terms, datetime.now(UTC))
    write_budget(device.vault, OwnBudget(terms.epsilon, terms.delta))
    seen = preview_device(device, terms, datetime.now(UTC), last=1)
    masks = usual_round(2)
    own, within = load_encoder(), load_subspace()
    wire = encode_invitation(
        Invitation(
            1, 0, fixed_hash(own), 7, LocalSettings(), masks, encode_model(own, own, 8), subspace_hash(within)
        )
    )
    one, other = Member(device, server=terms.server), VirtualPerson(make_labels(9), own)
    total, left = MaskedSum(wire, masks, within.count + 1), list[bytes]()

    def ask(messages: dict[int, bytes]) -> dict[int, bytes]:
        answers: dict[int, bytes] = {}
        for place, message in messages.items():
            said: list[bytes] = []
            (one, other)[place].take_part(message, said.append)
            answers[place] = said[0]
        left.append(answers[0])
        return answers

    roster, _ = total.adverts(ask(dict.fromkeys(range(2), signed(wire))))
    ask(total.shares(ask(dict.fromkeys(range(2), roster)))[0])
    (note,) = read_outbox(device.vault)
    assert note.leaving == seen.leaving
    assert (note.bytes_up, note.sha256) == (len(left[-1]), sha256(left[-1]).hexdigest())
    assert (note.norm, note.tensors) == (None, ())
    assert describe_bytes(note.leaving) in describe_shortly(seen)[0]
    again = preview_device(device, terms, datetime.now(UTC), last=1)
    assert again.leaving == note.leaving
    assert again.from_last_round


def test_what_a_round_costs_is_told_from_what_is_spent(device: Device) -> None:
    terms = replace(TERMS, epsilon=20.0)
    first = preview_device(device, terms, NOON, last=1)
    assert first.noise is not None
    assert (first.epsilon_spent, first.epsilon_budget, first.stays_out) == (0.0, 20.0, "")
    cost = rho_of(first.noise.multiplier)
    assert first.epsilon_after == pytest.approx(epsilon_of_rho(cost, terms.delta))
    write_budget(device.vault, OwnBudget(20.0, terms.delta))
    noise = first.noise
    sure = SumNoise(noise.multiplier, noise.multiplier_if_all_add, noise.multiplier_alone)
    book_round(device.vault, sure, now=NOON)
    second = preview_device(device, terms, NOON, last=1)
    assert second.epsilon_spent == pytest.approx(first.epsilon_after)
    assert second.epsilon_after == pytest.approx(epsilon_of_rho(2 * cost, terms.delta))
    assert second.epsilon_after_if_all_add is not None
    assert second.epsilon_after_if_all_add < second.epsilon_after
    assert (
        f"of 20; after such a round counts epsilon {second.epsilon_after:.3g}; if the other devices also add"
        in " ".join(describe_shortly(second))
    )


def test_a_device_that_would_stay_out_says_why_all_at_once(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palate.client.federation.machine.read_load", lambda: 0.75)
    seen = preview_device(device, replace(TERMS, when="idle", epsilon=0.1), NOON, last=1)
    assert seen.learned  # the change is shown all the same
    assert seen.epsilon_after is None
    assert seen.stays_out == (
        "not idle: load of 0.75 per core; one more such round would pass your privacy budget, epsilon 0.1 "
        "at delta 1e-05"
    )
    assert seen.stays_out in " ".join(describe_shortly(seen))


def test_a_preview_looks_at_the_comments_that_are_kept_now(device: Device) -> None:
    everything = preview_device(device, TERMS, NOON, last=60)
    assert (everything.labels, len(everything.influences)) == (12, 12)
    strongest = everything.influences[0]
    device.forget(strongest.comment)
    rest = preview_device(device, TERMS, NOON, last=60)
    assert (rest.labels, len(rest.influences)) == (11, 11)
    assert strongest.comment not in {one.comment for one in rest.influences}
    assert rest.norm != everything.norm
