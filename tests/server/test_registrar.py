"""The registrar's books and keys: one certificate for each device and slot, whoever dies in between."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.federation.consent import Terms
from palate.client.federation.identity import own_identity
from palate.client.federation.pseudonyms import make_request, take_answer
from palate.client.vault.store import MemoryStore
from palate.server import registrar as module
from palate.server.registrar import Registrar, find_slot_key, read_slot_keys, take_slot_keys
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.secure_sum.pseudonym import decode_request, decode_slot_keys, encode_request
from tests.shared.pseudonym_cases import registrar_in

SERVER = "palate.example.org:8000"


class Killed(BaseException):
    """Stands for SIGKILL."""


def terms_of(registrar: Registrar) -> Terms:
    return Terms(SERVER, registrar=registrar.public.hex())


def asking(registrar: Registrar, file: bytes, slots: range | None = None) -> tuple[MemoryStore, bytes]:
    """A registered device's request."""
    log = MemoryStore()
    registrar.register(own_identity(log, terms_of(registrar)).public_key().public_bytes_raw())
    return log, make_request(log, terms_of(registrar), file, slots)[0]


def test_a_second_certificate_for_a_slot_is_refused_and_the_same_request_is_answered_again(
    tmp_path: Path,
) -> None:
    registrar, file = registrar_in(tmp_path, 4)
    log, request = asking(registrar, file, range(1, 3))
    answer, _, slots = registrar.answer(request)
    assert slots == range(1, 3)
    identity, keys = own_identity(log, terms_of(registrar)), decode_slot_keys(file)
    for first, count in ((1, 2), (2, 2), (1, 1), (2, 1), (1, 4)):
        again = encode_request(identity, keys, first, [5] * count)
        with pytest.raises(OptionError, match="answered for slots 1 to 2 before"):
            registrar.answer(again)
    assert Registrar(tmp_path, registrar.key).answer(request)[0] == answer  # also after a restart
    registrar.answer(encode_request(identity, keys, 3, [5, 6]))
    _, other = asking(registrar, file, range(1, 3))
    registrar.answer(other)  # another device has slots of its own


def test_a_device_that_is_not_registered_or_no_longer_gets_nothing(tmp_path: Path) -> None:
    registrar, file = registrar_in(tmp_path, 2)
    log = MemoryStore()
    stranger, _ = make_request(log, terms_of(registrar), file)
    name = decode_request(stranger).identity
    with pytest.raises(OptionError, match=f"{name.hex()} is not registered here"):
        registrar.answer(stranger)
    with pytest.raises(OptionError, match="never registered"):
        registrar.withdraw(name)
    registrar.register(name)
    answer, _, _ = registrar.answer(stranger)
    registrar.withdraw(name)
    with pytest.raises(OptionError, match="is not registered here"):
        registrar.answer(stranger)
    take_answer(log, terms_of(registrar), answer)  # what it has, it has, until the slots are over
    registrar.register(name)  # what it was answered is not forgotten by that
    with pytest.raises(OptionError, match="answered for slots 1 to 2 before"):
        registrar.answer(
            encode_request(own_identity(log, terms_of(registrar)), decode_slot_keys(file), 1, [5])
        )


def test_what_cannot_be_answered_is_one_line_and_takes_no_slot(tmp_path: Path) -> None:
    registrar, file = registrar_in(tmp_path / "one", 2)
    other, other_file = registrar_in(tmp_path / "other", 2)
    log, request = asking(registrar, file)
    identity, keys = own_identity(log, terms_of(registrar)), decode_slot_keys(file)
    unknown = decode_slot_keys(module.encode_slot_keys(1, [2**2_047 + 1] * 1, registrar.key))
    for data, line in (
        (asking(other, other_file)[1], "for another registrar"),
        (encode_request(identity, unknown, 1, [5]), "has not made"),
        (encode_request(identity, keys, 2, [5, 6]), "has not made"),
        (encode_request(identity, keys, 1, [0]), "out of its slot's range"),
        (encode_request(identity, keys, 1, [keys.moduli[0]]), "out of its slot's range"),
    ):
        with pytest.raises(OptionError, match=line) as caught:
            registrar.answer(data)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileFormatError):
        registrar.answer(b"a holiday picture")
    registrar.answer(request)


def test_killed_between_the_books_and_the_answer_the_same_request_is_answered_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registrar, file = registrar_in(tmp_path, 2)
    log, request = asking(registrar, file)

    def dies(*_: object) -> int:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "sign_blinded", dies)
        with pytest.raises(Killed):
            registrar.answer(request)
    keys = decode_slot_keys(file)
    with pytest.raises(OptionError, match="before"):
        registrar.answer(encode_request(own_identity(log, terms_of(registrar)), keys, 1, [5]))
    assert len(take_answer(log, terms_of(registrar), registrar.answer(request)[0])) == 2


def test_killed_before_the_books_nothing_was_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registrar, file = registrar_in(tmp_path, 2)
    _, request = asking(registrar, file)
    signed = []

    def dies(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", dies)
        patch.setattr(module, "sign_blinded", lambda *_: signed.append(1))
        with pytest.raises(Killed):
            registrar.answer(request)
    assert not signed
    registrar.answer(request)


def test_lost_or_damaged_books_stop_the_registrar(tmp_path: Path) -> None:
    registrar, file = registrar_in(tmp_path, 2)
    _, request = asking(registrar, file)
    registrar.answer(request)
    books = tmp_path / "registrar" / "devices.json"
    kept = books.read_bytes()
    for damage in (b"{", b"[]", b'{"version": 2}', kept.replace(b'"requests"', b'"lost"')):
        books.write_bytes(damage)
        with pytest.raises(FileFormatError, match="missing or damaged"):
            registrar.answer(request)
    books.unlink()
    with pytest.raises(FileFormatError, match="missing or damaged"):
        registrar.answer(request)
    books.write_bytes(kept)
    registrar.answer(request)


def test_slots_go_on_where_they_ended_and_a_kill_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registrar, _ = registrar_in(tmp_path, 2)
    real = module.write_atomically

    def dies(path: Path, data: bytes, *, consequence: str) -> None:
        if path.suffix == ".slots":
            raise Killed
        real(path, data, consequence=consequence)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", dies)
        with pytest.raises(Killed):
            registrar.make_slots(1)
    keys, path = registrar.make_slots(2)
    assert (keys.first, keys.last) == (3, 4)
    assert [(one.first, one.last) for one in read_slot_keys(tmp_path, registrar.public)] == [(1, 2), (3, 4)]
    log, request = asking(registrar, path.read_bytes())
    assert take_answer(log, terms_of(registrar), registrar.answer(request)[0]) == range(3, 5)


def test_killed_while_it_makes_its_first_slots_a_registrar_can_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registrar, real = Registrar(tmp_path, Ed25519PrivateKey.generate()), module.write_atomically
    for last in (".json", ".sealed", ".slots"):

        def dies(path: Path, data: bytes, *, consequence: str, last: str = last) -> None:
            real(path, data, consequence=consequence)
            if path.suffix == last:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_atomically", dies)
            with pytest.raises(Killed):
                registrar.make_slots(1)
    assert registrar.make_slots(1)[0].first == 2  # the first was whole when it was killed
    asking(registrar, (tmp_path / "slots" / "1.slots").read_bytes())


def test_the_secret_halves_are_sealed_by_the_registrars_key(tmp_path: Path) -> None:
    registrar, file = registrar_in(tmp_path, 2)
    _, request = asking(registrar, file)
    sealed = tmp_path / "registrar" / "1.sealed"
    first = registrar._signing_keys(decode_slot_keys(file))[0]
    assert first.p.to_bytes(128, "big") not in sealed.read_bytes()
    kept = sealed.read_bytes()
    sealed.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(FileFormatError, match="was changed"):
        registrar.answer(request)
    sealed.write_bytes(kept)
    registrar.answer(request)
    assert (tmp_path / "registrar").stat().st_mode & 0o077 == 0
    stranger = Registrar(tmp_path, Ed25519PrivateKey.generate())
    with pytest.raises(FileFormatError, match="another registrar key"):
        stranger._signing_keys(decode_slot_keys(file))


def test_a_server_takes_another_partys_slot_keys(tmp_path: Path) -> None:
    registrar, file = registrar_in(tmp_path / "registrar", 3)
    home = tmp_path / "server"
    with pytest.raises(FileFormatError, match="another registrar"):
        take_slot_keys(home, file, b"\1" * 32)
    assert take_slot_keys(home, file, registrar.public).last == 3
    key = find_slot_key(home, registrar.public, 2)
    assert key is not None
    assert key.modulus == decode_slot_keys(file).moduli[1]
    assert find_slot_key(home, registrar.public, 4) is None
    assert find_slot_key(home, b"\1" * 32, 2) is None
    (home / "slots" / "x.slots").write_bytes(b"nothing")
    with pytest.raises(FileFormatError, match=r"x\.slots"):
        find_slot_key(home, registrar.public, 2)


def test_the_books_say_who_asked_for_what_and_no_more(tmp_path: Path) -> None:
    registrar, file = registrar_in(tmp_path, 2)
    _, request = asking(registrar, file)
    registrar.answer(request)
    found = decode_request(request)
    books = json.loads((tmp_path / "registrar" / "devices.json").read_text())
    assert books == {
        "version": 1,
        "devices": {found.identity.hex(): {"withdrawn": False, "requests": [[1, 2, found.hash.hex()]]}},
    }
