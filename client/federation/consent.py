"""What a person agreed to before this device takes part in a federation, and whether a round now is within it.

Where it stands in the flow: `palate join` writes the terms down in the vault, with each change of them; before a round `joining`
asks `Consent.allows`, and a device that may not take part answers nothing. No terms, no part: taking part is opt-in.

The decision is one pure function, `may_take_part`, of the terms, what this machine reads of itself, and how many invitations it went
along with today (`invited`). What cannot be read counts as "no" unless the person said otherwise. The reasons are for the person at this
device: none is sent, because even "on battery at 12 %" is personal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from palate.client.federation.invited import invitations_of_the_day
from palate.client.federation.machine import ALWAYS, Readings, is_met, read_machine, split_conditions
from palate.client.federation.outbox import MAX_SERVER_CHARACTERS
from palate.client.privacy.ledger import DEFAULT_DELTA, DEFAULT_EPSILON
from palate.client.vault.store import ONLY, Change, Store
from palate.shared.checks import check_number, check_whole, is_hex, keep_numbers
from palate.shared.errors import OptionError, ReleaseError, StorageError, VaultDamagedError, VaultError
from palate.shared.sum_noise import VOUCHED_SHARE

CONSENT = "consent"  # type of record

KEPT = 500
"""Entries of the history that are kept; of older ones only how many there were."""

_VERSION = 1


@dataclass(frozen=True)
class Terms:
    """What a person agreed to for one server; raises OptionError outside the ranges.

    `when` is "always" or conditions joined by "+", all of which must be met: "idle", "charging", or what a platform lends.
    `least_devices` is this device's own minimum for a cohort, whatever the server says. `epsilon` and `delta` are its privacy
    budget over all rounds, which `client.ledger` keeps: one for the device, so the terms joined on last set it. `honest_share` is
    the part of a sum's devices that are counted on to add their noise, where a registrar vouches for them; the fewer, the more a
    round costs of the budget. Without a registrar nobody is counted on but this device itself (`counted_share`). With
    `allow_unmasked` the server may see this device's update alone, which neither the minimum nor the budget protects. `in_doubt`
    takes part although a condition cannot be read. `release_key` (the recovery key of the server's
    log of releases, which the log's release key must rest on) and `registrar` are pinned Ed25519 public keys, 64 hexadecimal
    digits, empty if none is pinned here. `certificate` is what a registrar gave this device under an earlier version: by it the
    server keeps the identity that it was for (`client.identity`).
    """

    server: str
    when: str = ALWAYS
    rounds_a_day: int = 24  # 1 to 10,000
    least_devices: int = 10  # 2 to 1,000
    epsilon: float = DEFAULT_EPSILON  # above 0, at most 1,000,000
    delta: float = DEFAULT_DELTA  # above 0, at most 0.001
    honest_share: float = VOUCHED_SHARE  # 0 to 1
    allow_unmasked: bool = False
    in_doubt: bool = False
    release_key: str = ""
    registrar: str = ""
    certificate: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.server, str) or not 1 <= len(self.server) <= MAX_SERVER_CHARACTERS:
            raise OptionError(f"a server is named in 1 to {MAX_SERVER_CHARACTERS} characters")
        split_conditions(self.when)
        for name, least, most in (("rounds_a_day", 1, 10_000), ("least_devices", 2, 1_000)):
            check_whole(_spoken(name), getattr(self, name), least, most)
        keep_numbers(self, {"epsilon": (0.0, 1e6), "delta": (0.0, 1e-3)}, above=True)
        check_number("honest share", self.honest_share, 0.0, 1.0)
        object.__setattr__(self, "honest_share", float(self.honest_share))
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

    def conditions(self) -> tuple[str, ...]:
        """Return the conditions that must be met, none for "always"."""
        return split_conditions(self.when)

    def release_key_bytes(self) -> bytes | None:
        """Return the pinned key that releases are signed with (32 bytes), None if none is pinned."""
        return bytes.fromhex(self.release_key) if self.release_key else None

    def registrar_bytes(self) -> bytes | None:
        """Return the pinned key of whoever vouches for devices (32 bytes), None if none is pinned."""
        return bytes.fromhex(self.registrar) if self.registrar else None

    def certificate_bytes(self) -> bytes | None:
        """Return this device's certificate (64 bytes), None if it has none."""
        return bytes.fromhex(self.certificate) if self.certificate else None

    @property
    def counted_share(self) -> float:
        """The part of a sum's devices whose noise is counted on, beside this device's own: 0 unless a registrar vouches for them."""
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
                f"sums over at least {self.least_devices} devices that the registrar vouches for; {budget}; {alone}"
            )
            lines.append(
                f"counting on the noise of {self.honest_share:.0%} of the devices in a sum; a registrar who works with the server "
                "can vouch for devices that are none"
            )
        else:
            lines.append(f"{budget}, counting this device's own noise alone; {alone}")
            lines.append(
                f"cohorts that name {self.least_devices} devices or more; but no registrar is pinned, so this server can make all the "
                "others up, and then has yours alone, behind your own noise"
            )
        pinned = [
            f"{words} {key[:16]}..."
            for words, key in (("release key", self.release_key), ("registrar", self.registrar))
            if key
        ]
        return [*lines, f"pinned: {', '.join(pinned)}"] if pinned else lines


@dataclass(frozen=True)
class Verdict:
    """Whether this device may take part now, and why or why not, in a few words for the person."""

    allowed: bool
    reason: str


@dataclass(frozen=True)
class Event:
    """One entry of the history.

    `what` is "agreed" (joined for the first time, or anew after a refusal), "changed" (joined with other terms), "joined" (on the
    same terms), "refused" (the person said no; terms agreed to before no longer hold) or "left".
    """

    when: str  # ISO 8601, UTC
    server: str
    what: str
    terms: Terms | None  # of "agreed" and "changed"


def may_take_part(terms: Terms | None, readings: Readings, today: int) -> Verdict:
    """Decide whether a device may take part in a round now, from nothing but what is given.

    `today` is how many invitations it went along with within a day, from any server (`invited`).
    """
    if terms is None:
        return Verdict(False, "its owner has not agreed to take part")
    if today >= terms.rounds_a_day:
        return Verdict(False, f"{today} rounds within a day, and {terms.rounds_a_day} are agreed to")
    met = []
    for name in terms.conditions():
        answer = is_met(name, readings)
        if answer is None:
            if not terms.in_doubt:
                return Verdict(False, f"whether this device is {name} cannot be read")
            met.append(f"{name} cannot be read, which is agreed to")
        elif not answer[0]:
            return Verdict(False, f"not {name}: {answer[1]}")
        else:
            met.append(f"{name}: {answer[1]}")
    return Verdict(True, "; ".join(met) or "at any time")


# --- what is kept -------------------------------------------------------------------------------------------------


class Consent:
    """What holds for one server, asked before each round; reads the vault anew, so that a change made meanwhile counts."""

    def __init__(
        self, log: Store, server: str, *, read: Callable[[Iterable[str]], Readings] = read_machine
    ) -> None:
        """Use an open vault and the server's name as the outbox has it; `read` asks the machine."""
        self._log, self._server, self._read = log, server, read

    def terms(self) -> Terms | None:
        """Return what was agreed to, None if nothing is; raises what the vault raises."""
        return read_terms(self._log, self._server)

    def allows(self, now: datetime) -> Verdict:
        """Say whether this device may take part in a round now; never raises: a vault that cannot be read says no."""
        try:
            terms = self.terms()
            readings = self._read(terms.conditions()) if terms is not None else Readings()
            return may_take_part(terms, readings, invitations_of_the_day(self._log, now))
        except (VaultError, StorageError, OSError):
            return Verdict(False, "what its owner agreed to cannot be read")


def read_terms(log: Store | Change, server: str) -> Terms | None:
    """Return the terms that hold for a server, None if there are none; raises VaultDamagedError."""
    return _read_book(log)[0].get(server)


def read_all_terms(log: Store | Change) -> list[Terms]:
    """Return the terms that hold, one for each server; raises VaultDamagedError."""
    return list(_read_book(log)[0].values())


def newest_terms(log: Store | Change) -> Terms | None:
    """Return the terms that were joined on last and still hold, None if none do; raises VaultDamagedError."""
    book, events, _ = _read_book(log)
    joined = [one.server for one in events if one.what in ("agreed", "changed", "joined")]
    return next((book[server] for server in reversed(joined) if server in book), None)


def read_history(log: Store | Change) -> tuple[int, tuple[Event, ...]]:
    """Return how many entries are no longer kept, and the others, the oldest first; raises VaultDamagedError."""
    _, events, dropped = _read_book(log)
    return dropped, events


def agree(log: Store, terms: Terms, now: datetime) -> Event:
    """Write down that the person joins on these terms, and return the entry; raises what the vault raises."""
    with log.transaction() as change:
        book, events, dropped = _read_book(change)
        before = book.get(terms.server)
        what = "agreed" if before is None else "joined" if before == terms else "changed"
        event = Event(_stamp(now), terms.server, what, None if what == "joined" else terms)
        _write(change, {**book, terms.server: terms}, (*events, event), dropped)
    return event


def refuse(log: Store, server: str, now: datetime) -> Event:
    """Write down that the person said no: terms agreed to before no longer hold."""
    with log.transaction() as change:
        book, events, dropped = _read_book(change)
        left = {name: terms for name, terms in book.items() if name != server}
        event = Event(_stamp(now), server, "refused", None)
        _write(change, left, (*events, event), dropped)
    return event


def note_leaving(log: Store, server: str, now: datetime) -> Event:
    """Write down that this device left; the terms hold for the next time."""
    with log.transaction() as change:
        book, events, dropped = _read_book(change)
        event = Event(_stamp(now), server, "left", None)
        _write(change, book, (*events, event), dropped)
    return event


def read_public_key(text: str) -> str:
    """Return an Ed25519 public key in 64 hexadecimal digits, given so, as `palate server key` prints it, as PEM, or by OpenSSH.

    Raises OptionError for anything else, private keys above all.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    from palate.shared.releases.message import read_key

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
        "this is no Ed25519 public key; give its text that begins with palate1, its 64 hexadecimal digits, or its PEM or OpenSSH form"
    )


def read_pinned_key(text: str, option: str) -> str:
    """Return what `read_public_key` does, of a text or of the file that it names; raises OptionError, which names the option."""
    file = Path(text).expanduser()
    try:
        return read_public_key(file.read_text("ascii") if "\n" not in text and file.is_file() else text)
    except (OptionError, OSError, ValueError):
        raise OptionError(
            f"--{option} is no Ed25519 public key; give its text that begins with palate1, its 64 hexadecimal digits, "
            "or a file with its PEM or OpenSSH form"
        ) from None


def _read_book(log: Store | Change) -> tuple[dict[str, Terms], tuple[Event, ...], int]:
    if not log.has(CONSENT, ONLY):
        return {}, (), 0
    try:
        content = json.loads(log.get(CONSENT, ONLY))
        if content["version"] != _VERSION:
            raise ValueError("unknown version")
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
    except (KeyError, TypeError, ValueError, AttributeError, OptionError):
        raise VaultDamagedError("what was agreed to cannot be read by this version of Palate") from None


def _write(change: Change, book: Mapping[str, Terms], events: Sequence[Event], dropped: int) -> None:
    """Keep the terms and the newest `KEPT` of the events; the record is sealed whole, so it is written whole."""
    content = {
        "version": _VERSION,
        "terms": [asdict(terms) for terms in book.values()],
        "events": [asdict(one) for one in events[-KEPT:]],
        "dropped": dropped + max(0, len(events) - KEPT),
    }
    change.put(CONSENT, ONLY, json.dumps(content).encode())


def _stamp(now: datetime) -> str:
    if now.tzinfo is None:
        raise ValueError("the time of an entry needs a zone")
    return now.astimezone(UTC).isoformat(timespec="microseconds")


def _spoken(name: str) -> str:
    return name.replace("_", " ")
