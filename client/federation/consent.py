"""What a person agreed to before this device takes part in rounds, and whether a round now is within it.

Where it stands in the flow: `palate join` writes the terms, and each change of them, into the vault. Before a
round `member` calls `Consent.allows`. A device that may not take part answers nothing. Without terms it takes
no part: taking part is opt-in.

The decision is one pure function, `may_take_part`, of the terms, of what this machine reads of itself, and of
how many invitations it accepted today (`rounds_a_day`). What cannot be read counts as "no" unless the person
said otherwise. The reasons are for the person at this device. None is sent: even "on battery at 12 %" is
personal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from palate.client.federation.machine import ALWAYS, Readings, is_met, read_machine, split_conditions
from palate.client.federation.outbox import MAX_SERVER_CHARACTERS
from palate.client.federation.rounds_a_day import invitations_of_the_day
from palate.client.privacy import DEFAULT_DELTA, DEFAULT_EPSILON
from palate.client.vault.json_records import decode_json, encode_json, readable
from palate.client.vault.store import ONLY, Change, Records, Store
from palate.shared.checks import check_number, check_whole, is_hex, keep_numbers
from palate.shared.errors import OptionError, ReleaseError, StorageError, VaultError
from palate.shared.releases.message import read_key, write_key
from palate.shared.sum_noise import VOUCHED_SHARE

CONSENT = "consent"  # type of record

KEPT = 500
"""Entries of the history that are kept; of older ones only how many there were."""

_VERSION = 1


@dataclass(frozen=True)
class Terms:
    """What a person agreed to for one server; raises `OptionError` outside the ranges.

    Attributes:
        server: the server's name, as the outbox has it.
        when: "always", or conditions joined by "+" that must all be met: "idle", "charging", or one that a
            platform adds.
        rounds_a_day: the most rounds within a day, 1 to 10,000.
        least_devices: this device's own minimum for a cohort, whatever the server says, 2 to 1,000.
        epsilon: the privacy budget over all rounds (`client.privacy.budget`), above 0, at most 1,000,000.
            There is one budget for the device, so the terms of the last join set it.
        delta: the budget's delta, above 0, at most 0.001.
        honest_share: the part of a sum's devices that are counted on to add their noise where a registrar
            certifies them, 0 to 1. The smaller it is, the more a round costs of the budget. Without a
            registrar, no device is counted on but this one (`counted_share`).
        allow_unmasked: the server may see this device's update alone, which neither minimum nor budget
            protects.
        in_doubt: take part although a condition cannot be read.
        release_key: the pinned recovery key of the server's log of releases, 64 hexadecimal digits, empty for
            none. The log's release key must rest on it.
        registrar: the registrar's pinned public key, in the same form.
        certificate: what a registrar gave this device under an earlier version, 128 hexadecimal digits. It
            keeps the identity that it was for (`identity`).
    """

    server: str
    when: str = ALWAYS
    rounds_a_day: int = 24
    least_devices: int = 10
    epsilon: float = DEFAULT_EPSILON
    delta: float = DEFAULT_DELTA
    honest_share: float = VOUCHED_SHARE
    allow_unmasked: bool = False
    in_doubt: bool = False
    release_key: str = ""
    registrar: str = ""
    certificate: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.server, str) or not 1 <= len(self.server) <= MAX_SERVER_CHARACTERS:
            raise OptionError(f"a server is named in 1 to {MAX_SERVER_CHARACTERS} characters")
        split_conditions(self.when)
        self._check_numbers()
        for name in ("allow_unmasked", "in_doubt"):
            if type(getattr(self, name)) is not bool:
                raise OptionError(f"{_spoken(name)} must be yes or no")
        for name in ("release_key", "registrar"):
            value = getattr(self, name)
            if value != "" and not is_hex(value):
                raise OptionError(f"{_spoken(name)} must be an Ed25519 public key in 64 hexadecimal digits")
        if self.certificate != "" and not is_hex(self.certificate, 128):
            raise OptionError(
                "certificate must be 128 hexadecimal digits, as palate server certify prints them"
            )

    def _check_numbers(self) -> None:
        for name, least, most in (("rounds_a_day", 1, 10_000), ("least_devices", 2, 1_000)):
            check_whole(_spoken(name), getattr(self, name), least, most)
        keep_numbers(self, {"epsilon": (0.0, 1e6), "delta": (0.0, 1e-3)}, above=True)
        check_number("honest share", self.honest_share, 0.0, 1.0)
        object.__setattr__(self, "honest_share", float(self.honest_share))

    def conditions(self) -> tuple[str, ...]:
        """Return the conditions that must be met, none for "always"."""
        return split_conditions(self.when)

    def release_key_bytes(self) -> bytes | None:
        """Return the pinned recovery key of the log of releases (32 bytes), None if none is pinned."""
        return bytes.fromhex(self.release_key) if self.release_key else None

    def registrar_bytes(self) -> bytes | None:
        """Return the pinned key of the registrar, which certifies devices (32 bytes), None for none."""
        return bytes.fromhex(self.registrar) if self.registrar else None

    def certificate_bytes(self) -> bytes | None:
        """Return this device's certificate (64 bytes), None if it has none."""
        return bytes.fromhex(self.certificate) if self.certificate else None

    @property
    def counted_share(self) -> float:
        """Return the part of a sum's devices whose noise counts, besides its own: 0 without a registrar."""
        return self.honest_share if self.registrar else 0.0

    def describe(self) -> list[str]:
        """Return the terms in lines for a person."""
        when = "at any time" if not self.conditions() else f"only when {' and '.join(self.conditions())}"
        if self.conditions() and self.in_doubt:
            when += " (or when that cannot be read)"
        lines = [f"{when}, at most {self.rounds_a_day} rounds a day"]
        budget = f"privacy budget epsilon {self.epsilon:g} at delta {self.delta:g}"
        alone = f"{'or' if self.allow_unmasked else 'never'} this device's update without masks"
        if self.registrar:
            lines.append(
                f"sums over at least {self.least_devices} devices that the registrar vouches for; {budget}; "
                f"{alone}"
            )
            lines.append(
                f"counting on the noise of {self.honest_share:.0%} of the devices in a sum; a registrar who "
                "works with the server can certify devices that do not exist"
            )
        else:
            lines.append(f"{budget}, counting this device's own noise alone; {alone}")
            lines.append(
                f"cohorts that name {self.least_devices} devices or more; but no registrar is pinned, so "
                "this server can make all the others up, and then has yours alone, behind your own noise"
            )
        pinned = []
        if self.release_key:  # as `palate server key` and `palate release show` print it
            pinned.append(f"release key {write_key(bytes.fromhex(self.release_key))}")
        if self.registrar:
            pinned.append(f"registrar {self.registrar[:16]}...")
        return [*lines, f"pinned: {', '.join(pinned)}"] if pinned else lines


@dataclass(frozen=True)
class Permission:
    """Whether this device may take part now, and why or why not in a few words for the person."""

    allowed: bool
    reason: str


@dataclass(frozen=True)
class Event:
    """One entry of the history.

    `what` is "agreed" (joined for the first time, or again after a refusal), "changed" (joined with other
    terms), "joined" (on the same terms), "refused" (the person said no; earlier terms no longer hold) or
    "left".
    """

    when: str  # ISO 8601, UTC
    server: str
    what: str
    terms: Terms | None  # of "agreed" and "changed"


def may_take_part(terms: Terms | None, readings: Readings, today: int) -> Permission:
    """Return whether a device may take part in a round now; a pure function.

    Args:
        terms: what the owner agreed to, None for nothing.
        readings: what the machine says of itself.
        today: how many invitations the device accepted within a day, from any server (`rounds_a_day`).
    """
    if terms is None:
        return Permission(False, "its owner has not agreed to take part")
    if today >= terms.rounds_a_day:
        return Permission(False, f"{today} rounds within a day, and {terms.rounds_a_day} are agreed to")
    met = []
    for name in terms.conditions():
        answer = is_met(name, readings)
        if answer is None:
            if not terms.in_doubt:
                return Permission(False, f"whether this device is {name} cannot be read")
            met.append(f"{name} cannot be read, which is agreed to")
        elif not answer[0]:
            return Permission(False, f"not {name}: {answer[1]}")
        else:
            met.append(f"{name}: {answer[1]}")
    return Permission(True, "; ".join(met) or "at any time")


# --- what is kept -------------------------------------------------------------------------------------------


class Consent:
    """The terms that hold for one server.

    Reads the vault anew each time, so that a change made meanwhile counts.
    """

    def __init__(
        self, store: Store, server: str, *, read: Callable[[Iterable[str]], Readings] = read_machine
    ) -> None:
        """Use an open vault and the server's name as the outbox has it; `read` reads the machine."""
        self._store, self._server, self._read = store, server, read

    def terms(self) -> Terms | None:
        """Return what was agreed to, None if nothing is; raises what the vault raises."""
        return read_terms(self._store, self._server)

    def allows(self, now: datetime) -> Permission:
        """Return whether this device may take part in a round now.

        Raise nothing: a vault that cannot be read means no.
        """
        try:
            terms = self.terms()
            readings = self._read(terms.conditions()) if terms is not None else Readings()
            return may_take_part(terms, readings, invitations_of_the_day(self._store, now))
        except (VaultError, StorageError, OSError):
            return Permission(False, "what its owner agreed to cannot be read")


def read_terms(records: Records, server: str) -> Terms | None:
    """Return the terms that hold for a server, None if there are none; raises `VaultDamagedError`."""
    return _read_book(records)[0].get(server)


def read_all_terms(records: Records) -> list[Terms]:
    """Return the terms that hold, one for each server; raises `VaultDamagedError`."""
    return list(_read_book(records)[0].values())


def newest_terms(records: Records) -> Terms | None:
    """Return the terms of the last join that still hold, None if none do; raises `VaultDamagedError`."""
    book, events, _ = _read_book(records)
    joined = [one.server for one in events if one.what in ("agreed", "changed", "joined")]
    return next((book[server] for server in reversed(joined) if server in book), None)


def read_history(records: Records) -> tuple[int, tuple[Event, ...]]:
    """Return how many entries are no longer kept, and the others, the oldest first.

    Raises `VaultDamagedError`.
    """
    _, events, dropped = _read_book(records)
    return dropped, events


def agree(store: Store, terms: Terms, now: datetime) -> Event:
    """Write down that the person joins on these terms, and return the entry; raises what the vault raises."""
    with store.transaction() as change:
        book, events, dropped = _read_book(change)
        before = book.get(terms.server)
        what = "agreed" if before is None else "joined" if before == terms else "changed"
        event = Event(_stamp(now), terms.server, what, None if what == "joined" else terms)
        _write(change, {**book, terms.server: terms}, (*events, event), dropped)
    return event


def refuse(store: Store, server: str, now: datetime) -> Event:
    """Write down that the person said no: terms agreed to before no longer hold."""
    with store.transaction() as change:
        book, events, dropped = _read_book(change)
        left = {name: terms for name, terms in book.items() if name != server}
        event = Event(_stamp(now), server, "refused", None)
        _write(change, left, (*events, event), dropped)
    return event


def note_leaving(store: Store, server: str, now: datetime) -> Event:
    """Write down that this device left; the terms hold for the next time."""
    with store.transaction() as change:
        book, events, dropped = _read_book(change)
        event = Event(_stamp(now), server, "left", None)
        _write(change, book, (*events, event), dropped)
    return event


def read_public_key(text: str) -> str:
    """Return an Ed25519 public key in 64 hexadecimal digits.

    `text` holds it in that form, as `palate server key` prints it, as PEM, or as OpenSSH writes it. Raises
    `OptionError` for anything else, private keys above all.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    given = text.strip()
    try:
        if is_hex(given.lower()):
            return given.lower()
        if given.lower().startswith("palate1"):
            return read_key(given).hex()
        load = load_ssh_public_key if given.startswith("ssh-") else load_pem_public_key
        key = load(given.encode())
        if isinstance(key, Ed25519PublicKey):
            return key.public_bytes_raw().hex()
    except (ValueError, UnsupportedAlgorithm, ReleaseError):
        pass
    raise OptionError(
        "this is no Ed25519 public key; give its text that begins with palate1, its 64 hexadecimal digits, "
        "or its PEM or OpenSSH form"
    )


def read_pinned_key(text: str, option: str) -> str:
    """Return what `read_public_key` does for a text or the file that it names.

    Raises `OptionError` that names the option.
    """
    file = Path(text).expanduser()
    try:
        return read_public_key(file.read_text("ascii") if "\n" not in text and file.is_file() else text)
    except (OptionError, OSError, ValueError):
        raise OptionError(
            f"--{option} is no Ed25519 public key; give its text that begins with palate1, its 64 "
            "hexadecimal digits, or a file with its PEM or OpenSSH form"
        ) from None


def _read_book(records: Records) -> tuple[dict[str, Terms], tuple[Event, ...], int]:
    """Return the terms by server, the history, and how many of its entries are no longer kept."""
    if not records.has(CONSENT, ONLY):
        return {}, (), 0
    with readable("what was agreed to"):
        content = decode_json(records.get(CONSENT, ONLY), _VERSION)
        book = {terms["server"]: Terms(**terms) for terms in content["terms"]}
        events = tuple(
            Event(
                str(one["when"]),
                str(one["server"]),
                str(one["what"]),
                None if one["terms"] is None else Terms(**one["terms"]),
            )
            for one in content["events"]
        )
        return book, events, int(content["dropped"])


def _write(change: Change, book: Mapping[str, Terms], events: Sequence[Event], dropped: int) -> None:
    """Keep the terms and the newest `KEPT` of the events; the record is sealed and written whole."""
    content = {
        "terms": [asdict(terms) for terms in book.values()],
        "events": [asdict(one) for one in events[-KEPT:]],
        "dropped": dropped + max(0, len(events) - KEPT),
    }
    change.put(CONSENT, ONLY, encode_json(_VERSION, content))


def _stamp(now: datetime) -> str:
    if now.tzinfo is None:
        raise ValueError("the time of an entry needs a zone")
    return now.astimezone(UTC).isoformat(timespec="microseconds")


def _spoken(name: str) -> str:
    return name.replace("_", " ")
