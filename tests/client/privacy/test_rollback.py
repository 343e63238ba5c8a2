"""What was spent stays spent: an older folder put back, an export, a new vault in place of a lost one, with
and without a keyring."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from palate.client.backup import export_vault, import_vault
from palate.client.privacy import rollback
from palate.client.privacy.budget import OwnBudget, book_round, check_round, read_spent, write_budget
from palate.client.privacy.rollback import NO_KEYRING, RESTORED, read_restored, remember, settle_loss
from palate.client.vault.store import ONLY
from palate.client.vault.vault import Vault
from palate.shared.accounting import rho_of
from palate.shared.errors import (
    OptionError,
    PrivacyBudgetError,
    StorageError,
    VaultDamagedError,
    VaultError,
)
from tests.memory_keyring import MemoryKeyring

pytestmark = pytest.mark.usefixtures("remembered_keys")

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
PLENTY = OwnBudget(8.0, 1e-5)


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> MemoryKeyring:
    """The system's keyring, in memory."""
    kept = MemoryKeyring()
    monkeypatch.setattr(rollback, "find_keyring", lambda: kept)
    return kept


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A passphrase vault."""
    Vault.create(tmp_path / "vault", "pw").close()
    return tmp_path / "vault"


def rounds(home: Path, count: int, multiplier: float = 4.0) -> float:
    """Take part in so many rounds, and return the epsilon that is spent then."""
    with Vault.open(home, "pw") as vault:
        remember(vault)
        for _ in range(count):
            book_round(vault, multiplier, now=NOW)
        return read_spent(vault).epsilon


def put_back(older: Path, home: Path) -> None:
    shutil.rmtree(home)
    shutil.copytree(older, home)


def test_an_older_folder_that_was_put_back_has_spent_what_the_newer_one_had(
    home: Path, tmp_path: Path, keyring: MemoryKeyring
) -> None:
    shutil.copytree(home, tmp_path / "older")
    spent = rounds(home, 3)
    assert spent > 1
    put_back(tmp_path / "older", home)
    with Vault.open(home, "pw") as vault:
        assert read_spent(vault).rounds == 0  # the folder alone knows nothing
        (line,) = remember(vault)
        assert "an older copy was put back" in line
        assert f"epsilon {spent:.3g} counts as spent" in line
        assert read_spent(vault).rounds == 3
        assert read_spent(vault).epsilon == spent
        assert remember(vault) == ()
    # So the budget ends where it would have ended.
    assert rounds(home, 3) > spent
    put_back(tmp_path / "older", home)
    with Vault.open(home, "pw") as vault:
        remember(vault)
        assert read_spent(vault).rounds == 6
        write_budget(vault, OwnBudget(spent, 1e-5))
        with pytest.raises(PrivacyBudgetError):
            check_round(vault, 4.0)


def test_without_a_keyring_the_same_attack_works_and_the_owner_is_told_so(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "older")
    assert rounds(home, 3) > 1
    put_back(tmp_path / "older", home)
    with Vault.open(home, "pw") as vault:
        assert remember(vault) == (NO_KEYRING,)
        assert read_spent(vault).epsilon == 0
    assert "\n" not in NO_KEYRING


def test_a_keyring_vault_whose_roll_back_was_accepted_has_spent_it_all_the_same(tmp_path: Path) -> None:
    keyring, home = MemoryKeyring(), tmp_path / "vault"
    Vault.create(home, keyring=keyring).close()
    shutil.copytree(home, tmp_path / "older")
    with Vault.open(home, keyring=keyring) as vault:
        remember(vault)
        spent = book_round(vault, 4.0, now=NOW)
    put_back(tmp_path / "older", home)
    with pytest.raises(VaultDamagedError, match="rolled back"):
        Vault.open(home, keyring=keyring)
    with Vault.open(home, keyring=keyring, unsafe_accept_loss=settle_loss) as vault:
        assert len(remember(vault)) == 1
        assert read_spent(vault) == spent


def test_a_damaged_passphrase_vault_that_was_opened_all_the_same_has_spent_its_budget(home: Path) -> None:
    head = (home / "vault.head").read_bytes()
    rounds(home, 3)
    (home / "vault.head").write_bytes(head)
    with pytest.raises(VaultDamagedError):
        Vault.open(home, "pw")
    with Vault.open(home, "pw", unsafe_accept_loss=settle_loss) as vault:
        assert read_spent(vault).epsilon >= PLENTY.epsilon
        with pytest.raises(PrivacyBudgetError):
            check_round(vault, 100.0)


@pytest.mark.parametrize(("lost", "least"), [("privacy spent", 20.0), ("privacy budget", 1000.0)])
def test_a_vault_that_lost_the_very_records_has_spent_its_budget_too(
    lost: str, least: float, home: Path
) -> None:
    with Vault.open(home, "pw") as vault:
        write_budget(vault, OwnBudget(20.0, 1e-5))
        book_round(vault, 4.0, now=NOW)
        (home / "records" / vault._head.entries[lost, ONLY].file).unlink()
    with Vault.open(home, "pw", unsafe_accept_loss=settle_loss) as vault:
        write_budget(vault, OwnBudget(20.0, 1e-5))  # as joining does, from the terms
        assert read_spent(vault).epsilon >= least
        with pytest.raises(PrivacyBudgetError):
            check_round(vault, 100.0)


def test_an_export_of_an_unknown_vault_counts_as_spent_to_the_whole_budget(
    home: Path, tmp_path: Path
) -> None:
    known = rounds(home, 1)
    with Vault.open(home, "pw") as vault:
        assert export_vault(vault, tmp_path / "e", "pw") == 1
    rounds(home, 2)  # which the export does not know
    with Vault.create(tmp_path / "new", "pw") as vault:
        assert import_vault(vault, tmp_path / "e", "pw") == 1
        spent = read_spent(vault)
        assert known < PLENTY.epsilon <= spent.epsilon < PLENTY.epsilon * 1.000001
        with pytest.raises(PrivacyBudgetError):
            check_round(vault, 100.0)
        restored = read_restored(vault)
        assert restored is not None
        assert "epsilon 8, its whole budget, counts as spent" in restored.describe()
        assert remember(vault)[0] == restored.describe()
        # The owner says what more there is to spend.
        write_budget(vault, OwnBudget(10.0, 1e-5))
        while True:
            try:
                book_round(vault, 10.0, now=NOW)
            except PrivacyBudgetError:
                break
        assert read_spent(vault).rounds > 10
        assert PLENTY.epsilon < read_spent(vault).epsilon <= 10


def test_the_owner_may_say_at_the_import_what_was_spent_and_never_less_than_the_file_knows(
    home: Path, tmp_path: Path
) -> None:
    known = rounds(home, 1)
    with Vault.open(home, "pw") as vault:
        export_vault(vault, tmp_path / "e", "pw")
    for said, counted in ((0.0, known), (known + 1, known + 1)):
        with Vault.create(tmp_path / f"new {said}", "pw") as vault:
            import_vault(vault, tmp_path / "e", "pw", spent=said)
            assert read_spent(vault).epsilon == pytest.approx(counted, rel=1e-6)
            restored = read_restored(vault)
            assert restored is not None
            assert "you said" in restored.describe()
            check_round(vault, 10.0)
    for wrong in (-1.0, float("nan"), float("inf")):
        with Vault.create(tmp_path / f"new {wrong}", "pw") as vault:
            with pytest.raises(OptionError, match="spent is"):
                import_vault(vault, tmp_path / "e", "pw", spent=wrong)
            assert vault.types() == ()


def test_rounds_without_protection_that_were_allowed_may_have_happened(home: Path, tmp_path: Path) -> None:
    with Vault.open(home, "pw") as vault:
        write_budget(vault, OwnBudget(8.0, 1e-5, unprotected=True))
        export_vault(vault, tmp_path / "e", "pw")
    with Vault.create(tmp_path / "new", "pw") as vault:
        import_vault(vault, tmp_path / "e", "pw")
        assert read_spent(vault).epsilon == float("inf")


@pytest.mark.parametrize("place", ["vault", "elsewhere"])
def test_a_keyring_that_knows_the_exported_vault_says_what_was_spent(
    place: str, home: Path, tmp_path: Path, keyring: MemoryKeyring
) -> None:
    with Vault.open(home, "pw") as vault:
        export_vault(vault, tmp_path / "e", "pw")
    spent = rounds(home, 2)
    shutil.rmtree(home)
    with Vault.create(tmp_path / place, "pw") as vault:
        import_vault(vault, tmp_path / "e", "pw")
        assert read_restored(vault) is None
        assert len(remember(vault)) == 1
        assert read_spent(vault).epsilon == spent
        check_round(vault, 4.0)


def test_another_machines_keyring_does_not_know_it_and_what_is_exported_there_is_another_account(
    home: Path, tmp_path: Path, keyring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Vault.open(home, "pw") as vault:
        export_vault(vault, tmp_path / "e", "pw")
    rounds(home, 1)
    monkeypatch.setattr(rollback, "find_keyring", MemoryKeyring)
    with Vault.create(tmp_path / "there", "pw") as vault:
        import_vault(vault, tmp_path / "e", "pw")
        assert read_restored(vault) is not None
        export_vault(vault, tmp_path / "back", "pw")
    # Back on the first machine, whose keyring knows the first account alone: rounds may have happened there.
    monkeypatch.setattr(rollback, "find_keyring", lambda: keyring)
    shutil.rmtree(home)
    with Vault.create(home, "pw") as vault:
        import_vault(vault, tmp_path / "back", "pw")
        assert read_restored(vault) is not None
        assert read_spent(vault).epsilon >= PLENTY.epsilon


@pytest.mark.parametrize("erased", [True, False])
def test_a_new_vault_in_the_place_of_another_goes_on_from_what_that_one_had_spent(
    erased: bool, home: Path, keyring: MemoryKeyring
) -> None:
    spent = rounds(home, 2)
    if erased:
        Vault.erase(home)
    else:
        shutil.rmtree(home)
    Vault.create(home, "pw").close()
    assert rounds(home, 0) == spent
    assert rounds(home, 1) > spent


def test_a_vault_in_another_folder_is_another_persons(
    home: Path, tmp_path: Path, keyring: MemoryKeyring
) -> None:
    rounds(home, 2)
    Vault.create(tmp_path / "other", "pw").close()
    assert rounds(tmp_path / "other", 0) == 0


def test_the_note_is_written_before_the_record_and_a_round_that_was_cut_short_counts(
    home: Path, keyring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Vault.open(home, "pw") as vault:
        remember(vault)
        with monkeypatch.context() as patch:
            patch.setattr(Vault, "_prepare_head", lambda *given: (_ for _ in ()).throw(OSError(28, "full")))
            with pytest.raises(StorageError):
                book_round(vault, 4.0, now=NOW)
        assert read_spent(vault).rounds == 0
        book_round(vault, 100.0, now=NOW)  # of less cost: the note does not fall
    with Vault.open(home, "pw") as vault:
        (line,) = remember(vault)
        assert "a round was cut short" in line
        assert read_spent(vault).rho == rho_of(4.0)


def test_a_keyring_that_does_not_answer_lets_no_round_begin_and_a_backup_be_made(
    home: Path, tmp_path: Path, keyring: MemoryKeyring
) -> None:
    with Vault.open(home, "pw") as vault:
        remember(vault)
        keyring.locked = True
        with pytest.raises(StorageError, match="unlock it"):
            book_round(vault, 4.0, now=NOW)
        assert read_spent(vault).rounds == 0
        with pytest.raises(StorageError, match="unlock it"):
            remember(vault)
        export_vault(vault, tmp_path / "e", "pw")


def test_two_copies_that_spend_at_the_same_time_do_not_spend_the_same_rest(
    home: Path, tmp_path: Path, keyring: MemoryKeyring
) -> None:
    rounds(home, 1)
    shutil.copytree(home, tmp_path / "copy")
    with Vault.open(home, "pw") as one, Vault.open(tmp_path / "copy", "pw") as other:
        for vault in (one, other):
            remember(vault)
        book_round(one, 4.0, now=NOW)
        with pytest.raises(VaultError, match=r"another copy of the vault .* join again") as caught:
            book_round(other, 4.0, now=NOW)
        assert "\n" not in str(caught.value)
        remember(other)
        assert book_round(other, 4.0, now=NOW).rounds == 3


@pytest.fixture
def marked(home: Path) -> Iterator[Vault]:
    """An open vault in which a restoration is noted in an unknown form."""
    with Vault.open(home, "pw") as vault:
        with vault.transaction() as change:
            change.put(RESTORED, ONLY, b'{"version": 9}')
        yield vault


def test_a_note_of_a_later_version_is_one_line(marked: Vault) -> None:
    with pytest.raises(VaultDamagedError, match="cannot be read by this version"):
        remember(marked)


def test_nothing_personal_is_in_the_keyring(home: Path, keyring: MemoryKeyring) -> None:
    rounds(home, 1)
    names = sorted(name.rsplit(" ", 1)[0] for name in keyring.secrets)
    assert names == ["privacy account", "privacy place"]
    assert str(home).encode() not in b"".join(keyring.secrets.values()) + "".join(keyring.secrets).encode()
