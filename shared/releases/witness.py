"""A witness of a release log: a short text that one device writes and another compares with its own log.

Where it stands in the flow: a server that has its keys could show each device another history, and no device
alone can see that. `palate release witness` writes what this device accepted, its owner hands the text to
somebody by any way, and `palate release compare` says there whether both saw the same (the gossip of
certificate transparency, RFC 9162, done by people).

    palate release witness 2
    server    palate1...                        the recovery key that the log begins with
    head      64 hexadecimal digits             hash of the last entry: two people may compare this line alone
    good      2027-02-28T12:00:00+00:00         until when the log is good
    entry 1   64 hexadecimal digits             keys
    entry 2   64 hexadecimal digits             release 1

The text is not signed: it is worth as much as the way that it came is. Who changes it on the way can cause a
false alarm, and can hide a fork only by knowing what the reader accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from palate.shared.checks import is_hex
from palate.shared.errors import ReleaseError
from palate.shared.releases.fields import read_key, write_key
from palate.shared.releases.log import MOST_ENTRIES, Keys, ReleaseLog, time_of

TITLE: Final = "palate release witness 2"
MOST_WITNESS_BYTES: Final = 200 * (MOST_ENTRIES + 10)

_LINE = re.compile(r"(server|head|good|entry (?:[1-9][0-9]{0,3}))[ ]+(\S+)(?:[ ]+(.{1,60}))?")


@dataclass(frozen=True)
class Witness:
    """What somebody saw of a log; made by `witness_of` or `read_witness`."""

    server: bytes  # the recovery key of the first entry
    entries: tuple[str, ...]  # their hashes, in order
    what: tuple[str, ...]  # what each entry is, in words
    good: str = ""  # until when the log is good, ISO 8601

    @property
    def head(self) -> str:
        """The hash of the last entry."""
        return self.entries[-1]

    @property
    def releases(self) -> int:
        """How many of the entries are releases."""
        return sum(one.startswith("release") for one in self.what)


@dataclass(frozen=True)
class Comparison:
    """What two witnesses of one server's log come to."""

    verdict: Literal["same", "behind", "ahead", "fork", "other"]  # of the first against the second
    entry: int  # the last one that both have; of a fork, the first in which they part
    words: str


def witness_of(log: ReleaseLog) -> Witness:
    """Return what a log witnesses; raise ReleaseError for an empty one."""
    if not log.entries or not log.keys:
        raise ReleaseError("no release log was accepted here yet, so there is nothing to witness", "empty")
    what = []
    for entry in log.entries:
        kind = "keys" if isinstance(entry.content, Keys) else f"release {entry.content.release}"
        what.append(f"{kind}, {entry.time[:10]}")
    good = time_of(log.statement.until) if log.statement.until else ""
    return Witness(log.keys[0].recovery, tuple(one.hash for one in log.entries), tuple(what), good)


def write_witness(witness: Witness) -> str:
    """Return the text of a witness."""
    lines = [TITLE, f"server    {write_key(witness.server)}", f"head      {witness.head}"]
    lines += [f"good      {witness.good}"] if witness.good else []
    lines += [
        f"entry {number:<3} {hash_}  {what}"
        for number, (hash_, what) in enumerate(zip(witness.entries, witness.what, strict=True), 1)
    ]
    return "\n".join(lines) + "\n"


def read_witness(text: str) -> Witness:
    """Return the witness of a text, whatever its spaces and line ends.

    Raises:
        ReleaseError: any other text.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines or " ".join(lines[0].split()) != TITLE:
        raise ReleaseError(f"this is no witness of a release log; its first line must be {TITLE!r}", "kind")
    server, head, good = b"", "", ""
    entries: list[str] = []
    what: list[str] = []
    for line in filter(None, lines[1:]):
        found = _LINE.fullmatch(line)
        if found is None:
            raise ReleaseError(f"the witness has a line that cannot be read: {line[:60]!r}", "number")
        name, value, words = found[1], found[2], found[3] or ""
        if name == "server":
            server = read_key(value)
        elif name == "good":
            good = value
        elif not is_hex(value):
            raise ReleaseError(f"the witness's {name} is no 64 lower-case hexadecimal digits", "number")
        elif name == "head":
            head = value
        elif name != f"entry {len(entries) + 1}" or len(entries) == MOST_ENTRIES:
            raise ReleaseError(
                f"the witness has {name} where entry {len(entries) + 1} belongs; take it whole", "gap"
            )
        else:
            entries.append(value)
            what.append(words)
    if not server or not entries or head != entries[-1]:
        raise ReleaseError(
            "the witness is not whole: server, head and entries must be there, and the head be the last "
            "entry",
            "size",
        )
    return Witness(server, tuple(entries), tuple(what), good)


def compare_witnesses(mine: Witness, other: Witness) -> Comparison:
    """Return whether two devices saw the same log, one saw more of it, or they were shown two histories."""
    both = list(zip(mine.entries, other.entries, strict=False))
    parted = next((number for number, (a, b) in enumerate(both, 1) if a != b), None)
    if parted is not None and mine.server != other.server:
        return Comparison(
            "other",
            parted,
            f"these are the logs of two servers: {write_key(mine.server)} here, {write_key(other.server)} "
            "there",
        )
    if parted is not None:
        here, there = (
            f"{one.entries[parted - 1][:16]} ({one.what[parted - 1] or 'not said what'})"
            for one in (mine, other)
        )
        return Comparison(
            "fork",
            parted,
            f"FORK: the logs part at entry {parted}, which is {here} here and {there} there: somebody with "
            "the server's keys shows different devices different histories; stop taking part, and tell "
            "the others and the person who runs it",
        )
    more = len(mine.entries) - len(other.entries)
    if not more:
        return Comparison(
            "same", len(both), f"both saw the same log: {len(both)} entries, head {mine.head[:16]}"
        )
    who, whom = ("this device", "the other") if more > 0 else ("the other device", "this one")
    return Comparison(
        "ahead" if more > 0 else "behind",
        len(both),
        f"{who} is {abs(more)} {'entry' if abs(more) == 1 else 'entries'} ahead of {whom}; up to entry "
        f"{len(both)} both saw the same log",
    )
