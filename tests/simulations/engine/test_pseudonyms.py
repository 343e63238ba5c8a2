"""Who can link whom.

Other devices of a round, a registrar that keeps everything, and a device that wants to be there twice.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.federation.consent import Terms
from palate.client.federation.contribution import no_class
from palate.client.federation.masked_answers import MaskedAnswers
from palate.client.federation.masked_round import MaskedRound, MaskRules
from palate.client.federation.pseudonyms import use_pseudonym
from palate.client.runtime.progress import no_notice
from palate.client.vault.store import MemoryStore
from palate.server.app import grid_devices
from palate.server.checkpoints import Checkpoint
from palate.server.registrar import Registrar
from palate.server.rounds.run import ServerFolder, federate
from palate.server.secure_sum.unmasking import MaskedSum
from palate.server.strategy import average
from palate.shared.delegation import SIGNED, message_in
from palate.shared.encoder import load_encoder
from palate.shared.errors import FederationError
from palate.shared.secure_sum.blind_signature import EXPONENT, encode
from palate.shared.secure_sum.frame import INVITATION
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.messages import (
    Advert,
    Invitation,
    context_of,
    decode_invitation,
    decode_roster,
    encode_invitation,
)
from palate.shared.secure_sum.pseudonym import (
    Pseudonym,
    SlotKey,
    SlotKeys,
    certified_content,
    decode_answer,
    decode_request,
    decode_slot_keys,
)
from palate.shared.update import LocalSettings
from palate.shared.wire import kind_of
from tests.shared.pseudonym_cases import SLOTS, equip, registrar_in
from tests.simulations.engine.test_masked_rounds import (
    PEOPLE,
    QUICK,
    Grid,
    killed_in_round_2,
    plain,
    settings,
)

DEVICES = 10
MASKS = MaskSettings(ring_bits=13, least=2)


def invitation(slot: int) -> bytes:
    return encode_invitation(Invitation(slot, 0, "ab" * 32, 7, LocalSettings(), MASKS, b"a model", slot=slot))


def roster_of(slot: int, there: Sequence[Pseudonym], key: SlotKey | None) -> Sequence[Advert]:
    """What every device of a round sees of the others."""
    wire = invitation(slot)
    server = MaskedSum(wire, MASKS, 21, slot_key=key)
    rounds = [
        MaskedRound(wire, identity=one.key, rules=MaskRules(certificate=one.certificate)) for one in there
    ]
    data, refused = server.adverts({n: one.advert() for n, one in enumerate(rounds)})
    assert not refused
    return decode_roster(data, context=context_of(wire), slot_key=key).adverts


def registered(
    home: Path, devices: int, slots: int
) -> tuple[Terms, SlotKeys, list[MemoryStore], list[tuple[bytes, bytes]]]:
    """Devices' terms, the registrar's slot keys, their books, and what the registrar saw of each."""
    registrar, file = registrar_in(home, slots)
    terms, stores = Terms("a:1", registrar=registrar.public.hex()), [MemoryStore() for _ in range(devices)]
    return terms, decode_slot_keys(file), stores, [equip(store, terms, registrar, file) for store in stores]


def linked(rounds: Sequence[Sequence[Advert]], owners: Sequence[dict[bytes, int]]) -> tuple[int, int, float]:
    """How often a device is found again in another round by the likest advert.

    Right guesses, guesses, and chance's share.

    Likeness is in how many of its bytes an advert agrees with another's: in names, keys, certificate and
    signature, all there is.
    """

    def likeness(one: Advert, other: Advert) -> int:
        parts = [(a.identity + a.mask_key + a.share_key + a.certificate + a.signature) for a in (one, other)]
        return sum(a == b for a, b in zip(*parts, strict=True))

    right, guesses, chance = 0, 0, 0.0
    for first in range(len(rounds)):
        for second in range(first + 1, len(rounds)):
            for one in rounds[first]:
                who = owners[first][one.identity]
                if who not in owners[second].values():
                    continue
                found = max(rounds[second], key=lambda other, one=one: likeness(one, other))  # type: ignore[misc]
                right += owners[second][found.identity] == who
                guesses += 1
                chance += 1 / len(rounds[second])
    return right, guesses, chance / guesses


def test_other_devices_link_rounds_by_lasting_keys_and_no_better_than_chance_by_pseudonyms(
    tmp_path: Path,
) -> None:
    terms, keys, stores, _ = registered(tmp_path, DEVICES, SLOTS)
    lasting = [Pseudonym(Ed25519PrivateKey.generate()) for _ in stores]
    draw = random.Random(3)
    seen: dict[str, tuple[list[Sequence[Advert]], list[dict[bytes, int]]]] = {}
    cohorts = [sorted(draw.sample(range(DEVICES), 7)) for _ in range(SLOTS)]
    for form in ("lasting keys", "fresh keys", "certified"):
        rounds, owners = [], []
        for slot, cohort in enumerate(cohorts, start=1):
            there: dict[int, Pseudonym] = {}
            for n in cohort:
                mine = {
                    "lasting keys": lasting[n],
                    "fresh keys": Pseudonym(Ed25519PrivateKey.generate()),
                }.get(form)
                found = use_pseudonym(stores[n], terms, slot) if mine is None else mine
                assert found is not None
                there[n] = found
            key = keys.key(slot) if form == "certified" else None
            rounds.append(roster_of(slot, list(there.values()), key))
            owners.append({one.key.public_key().public_bytes_raw(): n for n, one in there.items()})
        seen[form] = rounds, owners
    right, guesses, _ = linked(*seen["lasting keys"])
    assert right == guesses > 100  # the control: as it was before
    for form in ("fresh keys", "certified"):
        right, guesses, chance = linked(*seen[form])
        spread = (chance * (1 - chance) / guesses) ** 0.5
        assert abs(right / guesses - chance) < 5 * spread, form
        names = [one.identity for adverts in seen[form][0] for one in adverts]
        assert len(set(names)) == len(names)


def test_a_registrar_that_keeps_everything_finds_that_each_request_fits_each_pseudonym(
    tmp_path: Path,
) -> None:
    """For each pair of a request and a certificate of a slot there is a random number that explains it, so
    none is likelier."""
    terms, keys, stores, kept = registered(tmp_path, 5, 2)
    modulus, slot = keys.moduli[1], 2
    shown = [use_pseudonym(store, terms, slot) for store in stores]
    pairs = 0
    for request, answer in kept:
        blinded, signed = decode_request(request).blinded[1], decode_answer(answer)[1][1]
        for one in shown:
            assert one is not None
            number = signed * pow(int.from_bytes(one.certificate, "big"), -1, modulus) % modulus
            encoded = encode(certified_content(one.key.public_key().public_bytes_raw(), slot), modulus)
            pairs += encoded * pow(number, EXPONENT, modulus) % modulus == blinded
    assert pairs == 25


def test_a_registered_device_cannot_be_in_a_round_twice(tmp_path: Path) -> None:
    terms, keys, (store, honest), _ = registered(tmp_path, 2, 3)
    wire = invitation(1)
    own = [use_pseudonym(store, terms, slot) for slot in (1, 2, 3)]
    fresh = Pseudonym(Ed25519PrivateKey.generate())
    stolen = Pseudonym(Ed25519PrivateKey.generate(), own[0].certificate)  # type: ignore[union-attr]
    tried = [use_pseudonym(honest, terms, 1), *own, own[0], stolen, fresh]
    adverts = {
        n: MaskedRound(wire, identity=one.key, rules=MaskRules(certificate=one.certificate)).advert()
        for n, one in enumerate(tried)
        if one is not None
    }
    assert len(adverts) == 7
    refused = MaskedSum(wire, MASKS, 21, slot_key=keys.key(1)).adverts(adverts)[1]
    wrong = dict.fromkeys((2, 3, 5, 6), "certificate")
    assert refused == wrong | {4: "duplicate"}
    # The control: without a registrar it is there as often as it likes.
    assert MaskedSum(wire, MASKS, 21).adverts(adverts)[1] == {4: "duplicate"}


# --- a run --------------------------------------------------------------------------------------------------


def certified_grid(registrar: Registrar, file: bytes, without: int) -> tuple[Grid, list[MemoryStore]]:
    """Six people's devices with pseudonyms, but for one."""
    grid, terms, stores = Grid(PEOPLE), Terms("a:1", registrar=registrar.public.hex()), []
    for n, person in enumerate(grid._people.values()):
        store = MemoryStore()
        stores.append(store)
        if n != without:
            equip(store, terms, registrar, file)
        person._masked = MaskedAnswers(
            own=lambda person=person: person.own,  # type: ignore[misc]
            labels=lambda person=person: person.labels,  # type: ignore[misc]
            rules=MaskRules,
            store=store,
            server="a:1",
            tell=no_notice,
            budgeted=False,
            pause=no_class,
            pseudonym=lambda slot, store=store: use_pseudonym(store, terms, slot),  # type: ignore[misc]
        )
    return grid, stores


def test_a_run_with_a_registrar_takes_a_slot_for_each_round_also_after_a_kill(
    tmp_path: Path,
) -> None:
    registrar, file = registrar_in(tmp_path, 4)
    grid, stores = certified_grid(registrar, file, without=5)
    how = settings(plain(registrar=registrar.public.hex()), rounds=3)

    def run() -> Checkpoint:
        return federate(
            grid_devices(grid),
            ServerFolder(tmp_path),
            how,
            average=average,
            patience=QUICK,
        )

    with killed_in_round_2():
        run()
    done = run()
    down = [message_in(wire) for wire in grid.down if kind_of(wire) == SIGNED]
    asked = [decode_invitation(wire) for wire in down if kind_of(wire) == INVITATION][::6]
    assert [(one.round, one.slot) for one in asked] == [(1, 1), (2, 2), (2, 3), (3, 4)]
    assert (done.metrics["used"], done.metrics["slot"]) == (5, 4)
    assert done.metrics["refused"] == {"empty": 1}
    assert {store.list("pseudonyms") for store in stores} == {()}
    with pytest.raises(FederationError, match="no key of the registrar's for slot 5"):
        federate(
            grid_devices(grid),
            ServerFolder(tmp_path),
            settings(plain(registrar=registrar.public.hex()), rounds=4),
            average=average,
            patience=QUICK,
        )


def test_a_run_in_memory_that_names_a_registrar_has_no_slot_keys() -> None:
    from palate.server.rounds.loop import run_rounds

    start = Checkpoint(0, load_encoder(), settings(plain(registrar="ab" * 32)))
    with pytest.raises(FederationError, match="none of its slot keys"):
        list(run_rounds(grid_devices(Grid(PEOPLE)), start, average=average, patience=QUICK))
