"""What a device with a vault says in masked rounds, and what it refuses to say."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.device import Device
from palate.client.federation.consent import Terms, agree
from palate.client.federation.declined import Declined
from palate.client.federation.masked_answers import guaranteed
from palate.client.federation.member import Member
from palate.client.federation.outbox import read_outbox
from palate.client.federation.pseudonyms import slots_left
from palate.client.privacy.budget import OwnBudget, OwnSpent, read_spent, write_budget
from palate.client.vault.vault import Vault
from palate.server.registrar import Registrar
from palate.server.secure_sum.privacy import PlanSettings, Privacy, mask_settings, planned_masks
from palate.server.secure_sum.unmasking import MaskedSum
from palate.shared.accounting import rho_of
from palate.shared.coding import encode_model, from_levels
from palate.shared.encoder import EncoderWeights, load_encoder
from palate.shared.reasons import DeclineReason
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.messages import (
    ADVERT,
    INVITATION,
    MASKED,
    REVEALED,
    SHARES,
    Invitation,
    context_of,
    encode_invitation,
)
from palate.shared.subspace import load_subspace, subspace_hash
from palate.shared.update import LocalSettings
from palate.shared.wire import TASK, Task, encode_task, fixed_hash, kind_of
from tests.client.federation.test_member import put_label
from tests.shared.pseudonym_cases import equip, registrar_in
from tests.signed import RELEASE_KEY, signed

SERVER = "127.0.0.1:9"
PASSPHRASE = "correct horse battery"
COUNT = load_subspace().count
WITHIN = subspace_hash(load_subspace())
MASKS = mask_settings(Privacy(), 1.0, least=2, most=2)


def invite(
    masks: MaskSettings = MASKS,
    encoder: EncoderWeights | None = None,
    round: int = 1,  # noqa: A002
    **more: Any,
) -> bytes:
    shipped = load_encoder()
    model = encode_model(shipped if encoder is None else encoder, shipped, 8)
    return encode_invitation(
        Invitation(
            round, shipped.release, fixed_hash(shipped), 7, LocalSettings(), masks, model, WITHIN, **more
        )
    )


class Person:
    """A device with labels, and what it said."""

    def __init__(self, device: Device, key: Ed25519PrivateKey = RELEASE_KEY) -> None:
        """`key` is the release key that invitations to this device are signed for."""
        self.device, self.key, self.lines = device, key, list[str]()
        self.member = Member(device, server=SERVER, tell=self.lines.append)

    def answer(self, wire: bytes) -> bytes:
        """Answer a message as it comes; an invitation is signed on its way."""
        sent: list[bytes] = []
        wire = signed(wire, self.key) if kind_of(wire) in (INVITATION, TASK) else wire
        self.member.take_part(wire, sent.append)
        (only,) = sent
        return only


def let(device: Device, **terms: object) -> None:
    agree(device.vault, Terms(SERVER, **{"least_devices": 2, **terms}), datetime.now(UTC))  # type: ignore[arg-type]


@contextlib.contextmanager
def two_people(folder: Path, key: Ed25519PrivateKey = RELEASE_KEY, **terms: object) -> Iterator[list[Person]]:
    """Two devices with eight verdicts each, whose owners agreed to sums of two and to `terms`."""
    with contextlib.ExitStack() as stack:
        found = []
        for place in range(2):
            device = stack.enter_context(Device.init(folder / str(place), PASSPHRASE))
            for number in range(1, 9):
                put_label(device, 10 * place + number, number % 2 == 0, ("calm", "misty"))
            let(device, **terms)
            found.append(Person(device, key))
        yield found


@pytest.fixture
def people(tmp_path: Path, remembered_keys: None) -> Iterator[list[Person]]:
    with two_people(tmp_path) as found:
        yield found


def pin_registrar(vault: Vault, folder: Path) -> tuple[Terms, Registrar, bytes]:
    """Have an owner pin a new registrar of two slots; return the terms, the registrar and its file."""
    registrar, file = registrar_in(folder, 2)
    pinned = Terms(SERVER, least_devices=2, registrar=registrar.public.hex())
    agree(vault, pinned, datetime.now(UTC))
    return pinned, registrar, file


def test_two_devices_give_a_noised_sum_and_each_notes_what_left(people: list[Person]) -> None:
    invitation = invite()
    total = MaskedSum(invitation, MASKS, COUNT + 1)
    said: list[set[int]] = []

    def all_answer(wires: dict[int, bytes]) -> dict[int, bytes]:
        answers = {place: people[place].answer(wire) for place, wire in wires.items()}
        said.append({kind_of(one) for one in answers.values()})
        return answers

    roster, refused = total.adverts(all_answer(dict.fromkeys(range(2), invitation)))
    deliveries, more = total.shares(all_answer(dict.fromkeys(range(2), roster)))
    unmask, most = total.masked(all_answer(deliveries))
    levels, survivors = total.revealed(all_answer(dict.fromkeys(range(2), unmask)))
    assert not refused
    assert not more
    assert not most
    assert said == [{ADVERT}, {SHARES}, {MASKED}, {REVEALED}]
    assert survivors == 2
    mean, _ = from_levels(levels, survivors, step=MASKS.step, clip=MASKS.clip, seed=context_of(invitation))
    # Both devices' noise is there: as much on each weight as the invitation asks of two. The standard error
    # over 4,096 numbers is 1.1 %; with one device's noise alone the figure would be 29 % lower.
    wanted = MASKS.noise * MASKS.step / np.sqrt(2)
    assert wanted * 0.94 < np.std(mean) < wanted * 1.06
    for person in people:
        (note,) = read_outbox(person.device.vault)
        assert (note.masked, note.sent, note.clip, note.round) == (True, True, 1.0, 1)
        assert note.noise == pytest.approx(MASKS.noise * MASKS.step)
        assert read_spent(person.device.vault).rounds == 1
        assert person.member.rounds == 1
        assert "masked and noised" in person.lines[-1]


def test_a_device_stays_out_of_a_round_beyond_its_budget(people: list[Person]) -> None:
    write_budget(people[0].device.vault, OwnBudget(0.1))
    assert people[0].answer(invite()) == b""
    assert "above your budget of 0.1" in people[0].lines[-1]
    assert people[0].member.rounds == 1


def spent_in_a_round(people: list[Person], masks: MaskSettings) -> list[OwnSpent]:
    """What each device has spent once its masked vector is gone."""
    invitation = invite(masks)
    total = MaskedSum(invitation, masks, COUNT + 1)
    roster, _ = total.adverts({place: one.answer(invitation) for place, one in enumerate(people)})
    deliveries, _ = total.shares({place: one.answer(roster) for place, one in enumerate(people)})
    for place, one in enumerate(people):
        assert kind_of(one.answer(deliveries[place])) == MASKED
    return [read_spent(one.device.vault) for one in people]


def test_a_device_that_counts_on_fewer_to_add_noise_pays_more_for_a_round() -> None:
    masks = mask_settings(Privacy(noise_multiplier=4.0, honest_share=1.0), 0.15, least=100, most=100)
    all_add, quarter, alone = (guaranteed(masks, COUNT, share=one) for one in (1.0, 0.25, 0.0))
    assert all_add.counted == all_add.all_add == quarter.all_add == pytest.approx(4.0, rel=0.01)
    assert quarter.counted == pytest.approx(all_add.counted / 2, rel=0.01)
    assert alone.counted == alone.alone == quarter.alone == pytest.approx(all_add.counted / 10, rel=0.05)
    assert guaranteed(masks, COUNT) == alone


def test_without_a_registrar_a_device_counts_its_own_noise_alone(people: list[Person]) -> None:
    trusting = mask_settings(Privacy(honest_share=1.0), 1.0, least=2, most=2)
    let(people[1].device, honest_share=1.0)  # it is not asked
    for one in spent_in_a_round(people, trusting):
        sure = guaranteed(trusting, COUNT)
        assert one.rho == one.rho_alone == pytest.approx(rho_of(sure.alone))
        assert one.rho_if_all_add == pytest.approx(one.rho / 2, rel=0.01)
        assert "if the other devices also add their noise" in one.describe()


def test_with_a_registrar_a_device_counts_on_the_share_that_its_owner_chose(
    people: list[Person], tmp_path: Path
) -> None:
    trusting = mask_settings(Privacy(honest_share=1.0), 1.0, least=2, most=2)
    registrar, file = registrar_in(tmp_path / "registrar")
    for one, share in zip(people, (1.0, 0.5), strict=True):
        terms = Terms(SERVER, least_devices=2, honest_share=share, registrar=registrar.public.hex())
        agree(one.device.vault, terms, datetime.now(UTC))
        equip(one.device.vault, terms, registrar, file)
    all_of_them, half = spent_in_a_round(people, trusting)
    assert all_of_them.rho == all_of_them.rho_if_all_add == pytest.approx(half.rho / 2, rel=0.01)
    assert all_of_them.rho_alone == half.rho_alone == half.rho  # half of two is a person alone
    assert "if none of them does" in all_of_them.describe()


def test_with_a_noise_plan_a_device_counts_its_own_share_and_trusts_nobody_with_the_rest(
    people: list[Person],
) -> None:
    plan = PlanSettings(steps=9, separation=3, noise_multiplier=5.0)
    shares = Privacy(noise_multiplier=2.0, clip_rate=0.0, plan=plan)
    masks, _ = planned_masks(shares, least=2, most=2)
    assert guaranteed(masks, COUNT).counted == pytest.approx(2.0, rel=0.01)
    assert kind_of(people[0].answer(invite(masks))) == ADVERT
    none, _ = planned_masks(replace(shares, noise_multiplier=0.0), least=2, most=2)
    assert people[1].answer(invite(none)) == b""
    assert "nothing bounds what it tells about you" in people[1].lines[-1]


def test_a_round_without_noise_is_not_taken_part_in_unless_that_was_allowed(people: list[Person]) -> None:
    silent = mask_settings(Privacy(noise_multiplier=0.0), 1.0, least=2, most=2)
    assert people[0].answer(invite(silent)) == b""
    write_budget(people[0].device.vault, OwnBudget(unprotected=True))
    assert kind_of(people[0].answer(invite(silent))) == ADVERT


def test_a_cohort_below_the_devices_own_minimum_is_refused(people: list[Person]) -> None:
    let(people[0].device, least_devices=3)
    invitation = invite()
    total = MaskedSum(invitation, MASKS, COUNT + 1)
    roster, _ = total.adverts({place: one.answer(invitation) for place, one in enumerate(people)})
    with pytest.raises(Declined) as refused:
        people[0].answer(roster)
    assert refused.value.reason is DeclineReason.MASKS_REFUSED
    assert kind_of(people[1].answer(roster)) == SHARES


def test_an_unmasked_task_is_declined_unless_that_was_allowed(people: list[Person]) -> None:
    task = encode_task(Task.for_encoder(load_encoder(), round=1, settings=LocalSettings(), seed=1))
    with pytest.raises(Declined) as refused:
        people[0].answer(task)
    assert refused.value.reason is DeclineReason.UNMASKED
    assert read_outbox(people[0].device.vault) == []


def test_devices_that_pin_a_registrar_meet_only_devices_that_it_has_certified(
    people: list[Person], tmp_path: Path
) -> None:
    registrar, file = registrar_in(tmp_path / "registrar")
    pinned = Terms(SERVER, least_devices=2, registrar=registrar.public.hex())

    def roster(slot: int) -> bytes:
        total = MaskedSum(invite(slot=slot), MASKS, COUNT + 1)
        adverts = {place: one.answer(invite(slot=slot)) for place, one in enumerate(people)}
        return total.adverts(adverts)[0]

    agree(people[0].device.vault, pinned, datetime.now(UTC))
    equip(people[0].device.vault, pinned, registrar, file)
    with pytest.raises(Declined) as refused:  # the other has no certificate
        people[0].answer(roster(1))
    assert refused.value.reason is DeclineReason.MASKS_REFUSED
    agree(people[1].device.vault, pinned, datetime.now(UTC))
    equip(people[1].device.vault, pinned, registrar, file)
    whole = roster(2)
    assert [kind_of(one.answer(whole)) for one in people] == [SHARES, SHARES]


def test_a_device_without_a_pseudonym_for_the_slot_says_nothing_and_one_is_used_once(
    people: list[Person], tmp_path: Path
) -> None:
    vault = people[0].device.vault
    pinned, registrar, file = pin_registrar(vault, tmp_path / "registrar")
    assert people[0].answer(invite(slot=1)) == b""
    assert "no pseudonym is left for slot 1" in people[0].lines[-1]
    equip(vault, pinned, registrar, file)
    assert kind_of(people[0].answer(invite(slot=1))) == ADVERT
    assert people[0].answer(invite(slot=1)) == b""  # replayed
    assert people[0].answer(invite(slot=1, round=2)) == b""  # another round in a slot that was used
    assert kind_of(people[0].answer(invite(slot=2, round=1))) == ADVERT  # the round begun anew
    assert people[0].answer(invite(slot=3)) == b""


def test_a_pseudonym_is_gone_from_the_vault_before_anything_of_it_leaves(
    people: list[Person], tmp_path: Path
) -> None:
    vault = people[0].device.vault
    pinned, registrar, file = pin_registrar(vault, tmp_path / "registrar")
    equip(vault, pinned, registrar, file)

    def dies(wire: bytes) -> None:
        assert slots_left(vault, pinned) == [2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        people[0].member.take_part(signed(invite(slot=1)), dies)
    assert Person(people[0].device).answer(invite(slot=1)) == b""


def test_a_device_that_stays_out_keeps_its_pseudonym(people: list[Person], tmp_path: Path) -> None:
    vault = people[0].device.vault
    pinned, registrar, file = pin_registrar(vault, tmp_path / "registrar")
    equip(vault, pinned, registrar, file)
    write_budget(vault, OwnBudget(0.1))
    assert people[0].answer(invite(slot=1)) == b""
    assert slots_left(vault, pinned) == [1, 2]


def test_a_device_without_labels_uses_a_pseudonym_up_like_any_other(
    tmp_path: Path, remembered_keys: None, people: list[Person]
) -> None:
    registrar, file = registrar_in(tmp_path / "registrar", 2)
    pinned = Terms(SERVER, least_devices=2, registrar=registrar.public.hex())
    with contextlib.closing(Device.init(tmp_path / "empty", PASSPHRASE)) as empty:
        for device in (empty, people[0].device):
            agree(device.vault, pinned, datetime.now(UTC))
            equip(device.vault, pinned, registrar, file)
            assert kind_of(Person(device).answer(invite(slot=1))) == ADVERT
            assert slots_left(device.vault, pinned) == [2]


def test_a_device_rests_by_itself_after_a_round_of_a_noise_plan(people: list[Person]) -> None:
    def advertised(step: int, plan: int = 1) -> list[bool]:
        wire = invite(rotation=bytes([plan]) * 32, step=step, rest=2, slot=step + 1)
        return [one.answer(wire) != b"" for one in people]

    assert advertised(0) == [True, True]  # and no more, so the step was not done
    wire = invite(rotation=bytes([1]) * 32, step=0, rest=2, slot=9)
    total = MaskedSum(wire, MASKS, COUNT + 1)
    roster, _ = total.adverts({place: one.answer(wire) for place, one in enumerate(people)})
    deliveries, _ = total.shares({place: one.answer(roster) for place, one in enumerate(people)})
    assert kind_of(people[0].answer(deliveries[0])) == MASKED
    assert advertised(0) == [True, True]  # the step once more
    assert advertised(1) == [False, True]
    assert "rests between the rounds of a noise plan" in people[0].lines[-1]
    assert advertised(2) == [False, True]
    assert advertised(3) == [True, True]
    assert advertised(1, plan=2) == [True, True]


def test_a_step_without_an_invitation_and_a_second_unmasking_are_refused(people: list[Person]) -> None:
    invitation = invite()
    total = MaskedSum(invitation, MASKS, COUNT + 1)
    roster, _ = total.adverts({place: one.answer(invitation) for place, one in enumerate(people)})
    stranger = Person(people[0].device)
    with pytest.raises(Declined):
        stranger.answer(roster)
    deliveries, _ = total.shares({place: one.answer(roster) for place, one in enumerate(people)})
    unmask, _ = total.masked({place: people[place].answer(wire) for place, wire in deliveries.items()})
    assert kind_of(people[0].answer(unmask)) == REVEALED
    with pytest.raises(Declined):
        people[0].answer(unmask)


def test_an_encoder_that_differs_from_another_release_is_refused(people: list[Person]) -> None:
    shipped = load_encoder()
    other = shipped.with_shared(
        {name: t * np.float32(0.9) for name, t in shipped.shared().items()}, release=0
    )
    model = encode_model(shipped, other, 8)
    wire = encode_invitation(Invitation(1, 0, fixed_hash(shipped), 7, LocalSettings(), MASKS, model, WITHIN))
    with pytest.raises(Declined) as refused:
        people[0].answer(wire)
    assert refused.value.reason is DeclineReason.OTHER_ENCODER


def test_another_subspace_than_the_installed_one_is_refused(people: list[Person]) -> None:
    shipped = load_encoder()
    model = encode_model(shipped, shipped, 8)
    wire = encode_invitation(
        Invitation(1, 0, fixed_hash(shipped), 7, LocalSettings(), MASKS, model, "ab" * 32)
    )
    with pytest.raises(Declined) as refused:
        people[0].answer(wire)
    assert refused.value.reason is DeclineReason.OTHER_ENCODER


def test_an_encoder_out_of_bounds_is_refused(people: list[Person]) -> None:
    shipped = load_encoder()
    huge = shipped.with_shared({name: t * np.float32(1e3) for name, t in shipped.shared().items()})
    with pytest.raises(Declined) as refused:
        people[0].answer(invite(encoder=huge))
    assert refused.value.reason is DeclineReason.ENCODER_TOO_LARGE
