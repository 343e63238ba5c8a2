"""A folder goes to the signing machine and back: signed once, refused when it is stale or somebody else's,
whole after a kill."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from machines import NOW, Machines, set_passphrase, state
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.client.releases.accepted import adopt, read_source
from palate.client.vault.store import MemoryStore
from palate.server.releases import carrying, sealed_keys
from palate.server.releases import figures as release_figures
from palate.server.releases import folder as releases
from palate.server.releases.carrying import Errand
from palate.server.releases.folder import list_releases, message_path, newest_message, release_path
from palate.shared.encoder import EncoderWeights, encoder_to_bytes
from palate.shared.errors import OptionError
from palate.shared.releases.message import Acceptance, SignedRelease, decode_release, encode_release


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    set_passphrase(monkeypatch)
    return Machines(tmp_path)


def test_a_release_is_signed_where_the_key_lies_and_taken_where_the_server_runs(machines: Machines) -> None:
    asked = machines.prepare()
    assert "asks for a signature on release 1" in asked.stdout
    shown = machines.sign()
    assert "release 1, after 0 others" in shown.stderr
    assert "encoder" in shown.stderr
    done = machines.take()
    assert machines.key in done.stderr
    assert "release 1 is taken" in done.stdout
    assert [path.name for path in machines.server.glob("*.key")] == ["round.key"]
    assert list_releases(machines.server / "releases")[0].round == 1
    assert machines.log() == machines.log(machines.signer)
    device = MemoryStore()
    assert adopt(device, read_source(machines.server / "releases"), key=machines.key).release == 1
    machines.train(2)
    machines.carry()
    assert adopt(device, read_source(message_path(machines.server / "releases", 2))).release == 2


def test_without_anything_new_the_folder_asks_for_more_time(machines: Machines) -> None:
    machines.carry()
    before = machines.log()
    assert "nothing new was learned" in machines.prepare().stdout
    machines.sign("--days", "200")
    assert "no new release" in machines.take().stdout
    after = machines.log()
    assert after.entries == before.entries
    assert after.statement.until > before.statement.until
    assert decode_release(newest_message(machines.server / "releases") or b"").log == after


def test_a_server_without_the_key_says_how_a_release_is_made(machines: Machines) -> None:
    machines.carry()
    machines.train(2)
    assert "palate server prepare FOLDER" in machines.on_server("release", status=1).stderr
    assert machines.on_server("key").stdout.strip() == machines.key


def test_the_person_is_asked_before_anything_is_signed(machines: Machines) -> None:
    machines.prepare()
    done = CliRunner().invoke(
        app, ["server", "sign", str(machines.folder), "--home", str(machines.signer)], input="n\n"
    )
    assert done.exit_code == 1
    assert "nothing was signed" in done.stderr
    assert not (machines.folder / carrying.SIGNED).exists()
    assert machines.log(machines.signer).releases == ()


def test_keys_that_were_changed_on_the_signing_machine_come_with_the_next_folder(machines: Machines) -> None:
    machines.carry()
    machines.on_signer("key", "--rotate")
    machines.train(2)
    machines.carry()
    assert [len(machines.log().entries), len(machines.log().releases)] == [4, 2]
    machines.on_signer("key", "--rotate-recovery")
    machines.prepare("--renew")
    machines.sign()
    assert "1 change of keys" in machines.take().stdout
    assert machines.log() == machines.log(machines.signer)


# --- nothing is lost ----------------------------------------------------------------------------------------


def test_signing_and_taking_again_change_nothing(machines: Machines) -> None:
    machines.prepare()
    machines.sign()
    first = (machines.folder / carrying.SIGNED).read_bytes()
    assert "was signed here before" in machines.sign().stderr
    assert (machines.folder / carrying.SIGNED).read_bytes() == first
    machines.take()
    log = machines.log()
    assert "no new release" in machines.take().stdout
    assert machines.log() == log


def test_a_folder_that_was_lost_after_signing_is_given_again(machines: Machines) -> None:
    machines.prepare()
    machines.sign()
    signed = machines.log(machines.signer)
    shutil.rmtree(machines.folder)
    machines.train(2)  # meanwhile rounds go on
    machines.prepare()
    assert "is given again as it is" in machines.sign().stderr
    machines.take()
    assert machines.log() == signed  # no second history was signed
    machines.carry()
    assert [card.round for card in list_releases(machines.server / "releases")] == [1, 2]


def kills(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Cut the work short before each write, one after another, until it is done without being cut."""
    for step in range(1, 20):
        done = 0

        def write(path: Path, data: bytes, *, consequence: str, at: int = step) -> None:
            nonlocal done
            done += 1
            if done == at:
                raise KeyboardInterrupt
            WRITE(path, data, consequence=consequence)

        with monkeypatch.context() as patch:
            for module in (carrying, releases):
                patch.setattr(module, "write_atomically", write)
            yield patch
        if done < step:
            return
    raise AssertionError("it never ended")


WRITE = releases.write_atomically


def cut_short(step: Callable[[], Result]) -> bool:
    """Do a step that may be killed; return whether it was."""
    try:
        step()
    except AssertionError:  # of `palate`: another status than 0
        return True
    return False


@pytest.mark.parametrize("which", ["prepare", "sign", "take"])
def test_killed_at_any_write_the_next_attempt_finishes(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    machines.carry()
    machines.train(2)
    order = ["prepare", "sign", "take"]
    for step in order[: order.index(which)]:
        getattr(machines, step)()
    cuts = [cut_short(getattr(machines, which)) for _ in kills(monkeypatch)]
    assert len(cuts) > 1
    assert cuts == [True] * (len(cuts) - 1) + [False]
    for step in order[order.index(which) :]:
        getattr(machines, step)()
    assert [card.round for card in list_releases(machines.server / "releases")] == [1, 2]
    assert machines.log() == machines.log(machines.signer)
    data = message_path(machines.server / "releases", 2).read_bytes()
    assert data == newest_message(machines.server / "releases")


# --- what is refused ----------------------------------------------------------------------------------------


def test_a_folder_that_is_not_one_is_one_line(machines: Machines, tmp_path: Path) -> None:
    assert "there is no to-sign.palate" in machines.sign(status=1).stderr
    assert "there is no signed.palate" in machines.take(status=1).stderr
    machines.prepare()
    assert "nothing in" in machines.take(status=1).stderr
    for name in (carrying.TO_SIGN, carrying.SIGNED):
        (machines.folder / name).write_bytes(b"PALATE rubbish")
    assert "to-sign.palate" in machines.sign(status=1).stderr
    assert "signed.palate" in machines.take(status=1).stderr
    machines.signer = tmp_path / "nobody"
    assert "no release key" in machines.sign(status=1).stderr


def test_a_stale_answer_is_refused_by_the_server(machines: Machines, tmp_path: Path) -> None:
    machines.carry()
    shutil.copytree(machines.folder, tmp_path / "old")
    machines.train(2)
    machines.carry()
    log = machines.log()
    machines.folder = tmp_path / "old"
    assert "the release log ends at entry" in machines.take(status=1).stderr
    assert machines.log() == log


def test_a_stale_request_is_answered_with_what_was_signed(machines: Machines, tmp_path: Path) -> None:
    machines.prepare()
    shutil.copytree(machines.folder, tmp_path / "old")
    machines.sign()
    machines.take()
    signed = machines.log(machines.signer)
    machines.folder = tmp_path / "old"
    machines.sign()
    assert machines.log(machines.signer) == signed


def test_the_folder_of_another_server_is_refused_on_both_sides(machines: Machines, tmp_path: Path) -> None:
    machines.carry()
    other = Machines(tmp_path / "other")
    other.carry()
    other.train(2)
    other.prepare()
    mine = machines.folder
    machines.folder = other.folder
    assert "another server's folder" in machines.sign(status=1).stderr
    other.sign()
    assert "two histories" in machines.take(status=1).stderr
    machines.folder = mine


def test_a_server_that_was_broken_into_gets_no_second_history_signed(machines: Machines) -> None:
    machines.carry()
    releases_folder = machines.server / "releases"
    for path in releases_folder.iterdir():
        path.unlink()  # the server forgets release 1, and asks for another one in its place
    machines.train(3)
    machines.prepare()
    assert "is given again as it is" in machines.sign().stderr
    assert [card.round for _, card in machines.log(machines.signer).releases] == [1]


def tampered(machines: Machines, change: Any) -> None:
    """Change what is asked for after the server prepared it."""
    path = machines.folder / carrying.TO_SIGN
    path.write_bytes(encode_release(change(decode_release(path.read_bytes()))))


def test_an_encoder_or_a_card_that_do_not_fit_are_not_signed(machines: Machines) -> None:
    machines.prepare()
    other = encoder_to_bytes(EncoderWeights(1, state(9).encoder.tensors))
    tampered(machines, lambda asked: SignedRelease(asked.log, other))
    assert "not the encoder of release 1" in machines.sign(status=1).stderr
    machines.prepare()

    def rigged(asked: SignedRelease) -> SignedRelease:
        from dataclasses import replace

        card = asked.log.releases[-1][1]
        before = replace(asked.log, entries=asked.log.entries[:-1])
        return SignedRelease(before.with_unsigned(replace(card, backbone="0" * 64), 5), asked.encoder)

    tampered(machines, rigged)
    assert "trained on the backbone" in machines.sign(status=1).stderr
    assert machines.log(machines.signer).releases == ()


def test_no_changed_byte_of_the_answer_is_taken(machines: Machines) -> None:
    machines.prepare()
    machines.sign()
    path = machines.folder / carrying.SIGNED
    data = path.read_bytes()
    for place in (0, 7, 20, 300, 700, len(data) - 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        machines.take(status=1)
        assert machines.log() is None
    path.write_bytes(data)
    machines.take()


def test_a_signing_machine_that_lost_its_records_goes_on_from_the_servers(machines: Machines) -> None:
    machines.carry()
    shutil.rmtree(machines.signer / "releases")
    machines.train(2)
    machines.prepare()
    assert "entries of the server's log are unknown to this machine" in machines.sign().stderr
    machines.take()
    assert len(list_releases(machines.server / "releases")) == 2


# --- the acceptance test, on both sides ---------------------------------------------------------------------


def test_the_test_is_made_again_where_the_key_lies(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def test(parent: EncoderWeights, encoder: EncoderWeights, memory: Any) -> Acceptance:
        return Acceptance(50, 0.99, 0.99, 0.1)

    monkeypatch.setattr(release_figures, "TEST", test)
    machines.prepare()
    monkeypatch.setattr(
        release_figures, "TEST", lambda parent, encoder, memory: Acceptance(50, 0.5, 0.6, 0.1)
    )
    assert "somebody may have steered the encoder" in machines.sign(status=1).stderr
    monkeypatch.setattr(
        release_figures, "TEST", lambda parent, encoder, memory: Acceptance(50, 0.96, 0.99, 0.1)
    )
    assert "the card says" in machines.sign(status=1).stderr
    monkeypatch.setattr(release_figures, "TEST", test)
    machines.sign()
    machines.take()
    machines.train(2)
    seen = []

    def parents(parent: EncoderWeights, encoder: EncoderWeights, memory: Any) -> Acceptance:
        seen.append((parent.release, encoder.release))
        return Acceptance(50, 0.99, 0.99, 0.1)

    monkeypatch.setattr(release_figures, "TEST", parents)
    machines.prepare()
    release_path(machines.signer / "releases", 1).unlink()  # the folder carries it
    machines.sign()
    assert seen[-1] == (1, 2)


# --- something else on the same way -------------------------------------------------------------------------


def errand(taken: list[bytes], public: bytes) -> Errand:
    """A signature on the words that lie in the server's folder."""

    def ask(home: Path) -> bytes | None:
        path = home / "words"
        return path.read_bytes() if path.exists() else None

    def describe(request: bytes) -> str:
        if b"evil" in request:
            raise OptionError("these words are not signed")
        return request.decode()

    def take(home: Path, answer: bytes) -> str:
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(answer[:64], answer[64:])
        except InvalidSignature:
            raise OptionError("the words are not signed by the release key") from None
        taken.append(answer)
        return f"taken: {answer[64:].decode()}"

    def answer(request: bytes, key: Ed25519PrivateKey) -> bytes:
        return key.sign(request) + request

    return Errand("words", ask, describe, answer, take)


def test_the_folder_carries_other_requests_and_their_answers(machines: Machines) -> None:
    public = sealed_keys.read_public(machines.signer / "release.key")
    assert public is not None
    taken: list[bytes] = []
    errands = (errand(taken, public),)
    (machines.server / "words").write_bytes(b"a round key")
    key = sealed_keys.read_key(machines.signer / "release.key", "correct horse")
    assert key is not None
    for checkpoint in (None, state(1)):
        done = carrying.prepare(machines.server, machines.folder, checkpoint, NOW, errands=errands)
        assert done.errands == ("words",)
        asked = carrying.read_asked(machines.signer, machines.folder, public, errands=errands)
        assert [one.describe(request) for one, request in asked.errands] == ["a round key"]
        carrying.sign(machines.signer, machines.folder, asked, NOW, key)
        signed, first = carrying.read_signed(machines.server, machines.folder)
        assert first is (checkpoint is None)
        found = carrying.take(machines.server, machines.folder, signed, errands=errands)
        assert found.lines == ("taken: a round key",)
        assert (found.card is None) is (checkpoint is None)
    assert len(taken) == 2
    (machines.folder / "signed.words").write_bytes(bytes(64) + b"forged")
    with pytest.raises(OptionError, match="not signed by the release key"):
        carrying.take(machines.server, machines.folder, signed, errands=errands)
