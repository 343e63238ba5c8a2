"""A device's pseudonyms: got in batches, used once, nothing lost and nothing used twice when it is killed in
between."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palate.client.federation import pseudonyms
from palate.client.federation.consent import Terms
from palate.client.federation.identity import own_identity
from palate.client.federation.pseudonyms import (
    drop_request,
    fresh_pseudonym,
    make_request,
    slots_left,
    take_answer,
    use_pseudonym,
    waiting_slots,
)
from palate.client.vault.store import MemoryStore
from palate.client.vault.vault import Vault
from palate.server.registrar import Registrar
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.secure_sum.pseudonym import (
    NO_CERTIFICATE,
    check_certificate,
    decode_answer,
    decode_request,
    encode_answer,
)
from tests.shared.pseudonym_cases import SLOTS, equip, registrar_in

SERVER = "palate.example.org:8000"


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registrar, bytes]:
    return registrar_in(tmp_path_factory.mktemp("registrar"))


@pytest.fixture
def terms(made: tuple[Registrar, bytes]) -> Terms:
    return Terms(SERVER, registrar=made[0].public.hex())


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def vault(tmp_path: Path, remembered_keys: None) -> Iterator[Vault]:
    with Vault.create(tmp_path / "vault", "correct horse") as opened:
        yield opened


def request_of(made: tuple[Registrar, bytes], terms: Terms, store: MemoryStore) -> tuple[bytes, range]:
    """The request of a device that the registrar knows."""
    registrar, file = made
    registrar.register(own_identity(store, terms).public_key().public_bytes_raw())
    return make_request(store, terms, file)


def test_a_device_has_a_certified_pseudonym_for_each_slot_once(
    made: tuple[Registrar, bytes], terms: Terms, vault: Vault
) -> None:
    equip(vault, terms, *made)
    assert slots_left(vault, terms) == list(range(1, SLOTS + 1))
    seen = set()
    for slot in (1, 2, 5):
        found = use_pseudonym(vault, terms, slot)
        assert found is not None
        assert found.slot_key is not None
        name = found.key.public_key().public_bytes_raw()
        check_certificate(found.certificate, name, found.slot_key)
        seen.add(name)
        assert use_pseudonym(vault, terms, slot) is None
    assert len(seen) == 3
    assert own_identity(vault, terms).public_key().public_bytes_raw() not in seen
    assert slots_left(vault, terms) == [6, 7, 8]  # 3 and 4 have passed
    for replayed in (1, 3, 4, 5, SLOTS + 1):
        assert use_pseudonym(vault, terms, replayed) is None
    assert slots_left(vault, terms) == [6, 7, 8]


def test_without_a_registrar_each_pseudonym_is_a_fresh_key() -> None:
    names = {fresh_pseudonym(1).key.public_key().public_bytes_raw() for _ in range(50)}
    assert len(names) == 50
    assert fresh_pseudonym(1).certificate == NO_CERTIFICATE


def test_a_request_that_waits_is_handed_out_again_and_answered_again(
    made: tuple[Registrar, bytes], terms: Terms, store: MemoryStore
) -> None:
    registrar, file = made
    request, slots = request_of(made, terms, store)
    assert (slots, waiting_slots(store, terms)) == (range(1, SLOTS + 1),) * 2
    assert make_request(store, terms, file, range(2, 3)) == (request, slots)  # whatever else is asked
    answers = {registrar.answer(request)[0] for _ in range(2)}
    assert len(answers) == 1
    assert take_answer(store, terms, answers.pop()) == slots
    assert waiting_slots(store, terms) is None


def test_later_slots_are_asked_for_when_the_first_are_used_up(tmp_path: Path, store: MemoryStore) -> None:
    registrar, file = registrar_in(tmp_path, 3)
    mine = Terms(SERVER, registrar=registrar.public.hex())
    equip(store, mine, registrar, file)
    with pytest.raises(OptionError, match="nothing to ask for"):
        make_request(store, mine, file)
    _, path = registrar.make_slots(2)
    equip(store, mine, registrar, path.read_bytes())
    assert slots_left(store, mine) == [1, 2, 3, 4, 5]
    with pytest.raises(OptionError, match="has pseudonyms up to slot 5"):
        make_request(store, mine, path.read_bytes(), range(5, 6))
    for slot in (3, 4, 5):
        assert use_pseudonym(store, mine, slot) is not None
    assert store.list(pseudonyms.PSEUDONYMS) == ()
    assert [id_.rpartition(" ")[2] for id_ in store.list(pseudonyms.SLOT_KEYS)] == [
        "4"
    ]  # those of 1 to 3 are gone


def test_pseudonyms_of_one_server_and_registrar_are_not_anothers(
    made: tuple[Registrar, bytes], terms: Terms, store: MemoryStore
) -> None:
    equip(store, terms, *made)
    for other in (Terms("other:1", registrar=terms.registrar), Terms(SERVER, registrar="ab" * 32)):
        assert slots_left(store, other) == []
        assert use_pseudonym(store, other, 1) is None
    assert len(slots_left(store, terms)) == SLOTS


def test_what_cannot_be_asked_for_or_taken_is_one_clear_line_and_changes_nothing(
    made: tuple[Registrar, bytes], terms: Terms, store: MemoryStore, tmp_path: Path
) -> None:
    registrar, file = made
    with pytest.raises(OptionError, match="no registrar is pinned"):
        make_request(store, Terms(SERVER), file)
    with pytest.raises(FileFormatError, match="another registrar"):
        make_request(store, Terms(SERVER, registrar="ab" * 32), file)
    for wrong in (range(3), range(5, SLOTS + 2), range(3, 3), range(50, 60)):
        with pytest.raises(OptionError, match="the file has keys for the slots 1 to"):
            make_request(store, terms, file, wrong)
    with pytest.raises(OptionError, match="no request"):
        take_answer(store, terms, b"")
    request, _ = request_of(made, terms, store)
    answer, _, _ = registrar.answer(request)
    hash_, signed = decode_answer(answer)
    for bad, line in (
        (encode_answer(bytes(32), signed), "answers another request"),
        (encode_answer(hash_, signed[:-1]), "answers another request"),
        (encode_answer(hash_, [*signed[:4], signed[5], *signed[5:]]), "slot 5 is no certificate"),
        (encode_answer(hash_, [0, *signed[1:]]), "slot 1 is no certificate"),
        (answer[:-1], "not as long as it says"),
        (request, "due is a registrar's answer"),
    ):
        with pytest.raises(FileFormatError, match=line) as caught:
            take_answer(store, terms, bad)
        assert "\n" not in str(caught.value)
        assert slots_left(store, terms) == []
    assert len(take_answer(store, terms, answer)) == SLOTS


def test_a_request_that_is_dropped_is_gone(
    made: tuple[Registrar, bytes], terms: Terms, store: MemoryStore
) -> None:
    registrar, file = made
    request, _ = request_of(made, terms, store)
    answer, _, _ = registrar.answer(request)
    assert drop_request(store, terms)
    assert not drop_request(store, terms)
    again, _ = make_request(store, terms, file)
    assert again != request
    with pytest.raises(OptionError, match="answered for slots 1 to"):  # or it could appear twice
        registrar.answer(again)
    with pytest.raises(FileFormatError):
        take_answer(store, terms, answer)


@pytest.mark.parametrize("where", ["request", "take", "use"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_loses_nothing_and_nothing_is_used_twice(
    where: str,
    when: str,
    made: tuple[Registrar, bytes],
    terms: Terms,
    tmp_path: Path,
    remembered_keys: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed just before or just after the one step that changes the vault, and opened anew."""
    registrar, file = made
    home, shown = tmp_path / "vault", list[bytes]()
    kill = False

    class Change:
        """The vault's transaction, which dies at its beginning or after its end."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __enter__(self) -> Any:
            if kill and when == "before":
                raise Killed
            return self._real.__enter__()

        def __exit__(self, *error: Any) -> Any:
            done = self._real.__exit__(*error)
            if kill:
                raise Killed
            return done

    real = Vault.transaction
    monkeypatch.setattr(Vault, "transaction", lambda self: Change(real(self)))

    def go() -> None:
        nonlocal kill
        with Vault.open(home, "correct horse") as vault:
            kill = where == "request"
            if not slots_left(vault, terms) and not used:
                request, _ = make_request(vault, terms, file)
                kill = False
                answer, _, _ = registrar.answer(request)
                kill = where == "take"
                take_answer(vault, terms, answer)
            kill = where == "use"
            found = use_pseudonym(vault, terms, 2)
            if found is not None:
                shown.append(found.key.public_key().public_bytes_raw())

    used = False
    with Vault.create(home, "correct horse") as vault:
        registrar.register(own_identity(vault, terms).public_key().public_bytes_raw())
    with pytest.raises(Killed):
        go()
    used = (where, when) == ("use", "after")
    where = "nowhere"
    kill = False
    go()
    with Vault.open(home, "correct horse") as vault:
        assert slots_left(vault, terms) == [3, 4, 5, 6, 7, 8]
        assert waiting_slots(vault, terms) is None
    assert len(shown) == (0 if used else 1)  # used up before it was shown, or shown once


def test_the_request_names_the_device_to_the_registrar_and_says_nothing_of_its_pseudonyms(
    made: tuple[Registrar, bytes], terms: Terms, store: MemoryStore
) -> None:
    request, answer = equip(store, terms, *made)
    assert decode_request(request).identity == own_identity(store, terms).public_key().public_bytes_raw()
    for slot in range(1, SLOTS + 1):
        found = use_pseudonym(store, terms, slot)
        assert found is not None
        for secret in (found.key.public_key().public_bytes_raw(), found.certificate):
            assert secret not in request + answer
