"""The round key: made once, its owner's alone, lent its right by the release key, and silent where there is
none."""

import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.server.releases import round_key, sealed_keys
from palate.server.releases.release_keys import KeyFiles, Passphrases, change_keys
from palate.server.releases.round_key import (
    add_delegation,
    lend_if_open,
    passing_signer,
    read_delegations,
    round_public,
    signer,
)
from palate.shared.delegation import VALID, decode_delegation, make_delegation, open_signed_message
from palate.shared.errors import FederationError, InvitationError, OptionError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def release_public(home: Path) -> bytes:
    public = sealed_keys.read_public(home / "release.key")
    assert public is not None
    return public


def test_a_new_server_gets_a_release_key_and_invites_with_its_right(tmp_path: Path) -> None:
    lend_if_open(tmp_path, NOW)
    sign = signer(tmp_path, lambda: NOW)
    opened = open_signed_message(sign(b"a task"), trusted=release_public(tmp_path), now=NOW)
    assert opened.message == b"a task"
    lend_if_open(tmp_path, NOW)
    assert len(read_delegations(tmp_path, NOW)) == 1
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / round_key.ROUND_KEY).stat().st_mode) == 0o600


def test_a_right_is_renewed_in_its_second_half_and_never_runs_out_while_the_key_is_at_hand(
    tmp_path: Path,
) -> None:
    now = NOW
    sign = signer(tmp_path, lambda: now)
    first = read_delegations(tmp_path, now)
    for days in (10, 20, 40, 400):
        now = NOW + timedelta(days=days)
        assert open_signed_message(sign(b"x"), trusted=release_public(tmp_path), now=now)
        assert (read_delegations(tmp_path, now) == first) == (days == 10)


def test_with_a_sealed_key_the_right_lasts_its_time_and_then_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sealed_keys.PASSPHRASE_VARIABLE, "open sesame")
    lend_if_open(tmp_path, NOW)
    monkeypatch.delenv(sealed_keys.PASSPHRASE_VARIABLE)
    now = NOW
    sign = signer(tmp_path, lambda: now)
    now = NOW + VALID - timedelta(hours=1)
    assert sign(b"x")
    now = NOW + VALID + timedelta(hours=1)
    for use in (lambda: sign(b"x"), lambda: signer(tmp_path, lambda: now)):
        with pytest.raises(FederationError, match="PALATE_RELEASE_PASSPHRASE"):
            use()


def test_a_key_on_another_machine_sends_its_delegation_over_also_during_a_run(tmp_path: Path) -> None:
    away, now = Ed25519PrivateKey.generate(), NOW
    public = round_public(tmp_path)
    add_delegation(tmp_path, make_delegation(away, public, now=NOW), NOW)
    sign = signer(tmp_path, lambda: now)
    assert not (tmp_path / "release.key").exists()
    now = NOW + timedelta(days=25)
    add_delegation(tmp_path, make_delegation(away, public, now=now), now)
    now = NOW + timedelta(days=50)
    opened = open_signed_message(sign(b"x"), trusted=away.public_key().public_bytes_raw(), now=now)
    assert opened.message == b"x"
    assert not (tmp_path / "release.key").exists()


def test_after_a_change_of_the_release_key_the_old_one_speaks_until_it_ends(tmp_path: Path) -> None:
    lend_if_open(tmp_path, NOW)
    old = release_public(tmp_path)
    change_keys(KeyFiles(tmp_path), NOW, Passphrases(None, None))
    lend_if_open(tmp_path, NOW)
    wire = signer(tmp_path, lambda: NOW)(b"x")
    for trusted in (old, release_public(tmp_path)):
        assert open_signed_message(wire, trusted=trusted, now=NOW).release_key == trusted


def test_what_is_no_delegation_or_not_for_this_key_is_not_kept(tmp_path: Path) -> None:
    other = make_delegation(Ed25519PrivateKey.generate(), bytes(range(32)), now=NOW)
    with pytest.raises(OptionError, match="not for the round key"):
        add_delegation(tmp_path, other, NOW)
    with pytest.raises(InvitationError):
        add_delegation(tmp_path, b"nonsense", NOW)
    (tmp_path / round_key.DELEGATIONS).write_bytes(b"damaged" + other)
    assert read_delegations(tmp_path, NOW) == []


def test_of_one_release_key_the_newest_delegation_alone_stays(tmp_path: Path) -> None:
    release, public = Ed25519PrivateKey.generate(), round_public(tmp_path)
    for days in range(3):
        now = NOW + timedelta(days=days)
        add_delegation(tmp_path, make_delegation(release, public, now=now), now)
    (only,) = read_delegations(tmp_path, NOW)
    assert decode_delegation(only).expires == int((NOW + timedelta(days=2) + VALID).timestamp())


def test_keys_that_pass_sign_too() -> None:
    assert open_signed_message(passing_signer()(b"x"), trusted=None, now=datetime.now(UTC)).message == b"x"
