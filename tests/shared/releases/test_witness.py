"""Witnesses of a release log: what two devices saw is compared in words, and a fork is found where
it begins."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.errors import ReleaseError
from palate.shared.releases.message import Card, ReleaseLog, decode_log
from palate.shared.releases.witness import compare_witnesses, read_witness, witness_of, write_witness

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "release_vectors.json").read_text("utf-8"))
LOG = decode_log(bytes.fromhex(VECTORS["log"]))
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


def first(count: int) -> ReleaseLog:
    """The log of the vectors as it was after so many entries."""
    return replace(LOG, entries=LOG.entries[:count])


def forked(at: int) -> ReleaseLog:
    """Another log of the same keys that parts from the vectors' at an entry."""
    card = LOG.releases[0][1]
    entries = first(at - 1).with_release(replace(card, round=9), 5, KEY).entries
    return replace(LOG, entries=(*entries, *LOG.entries[at:]))


def test_a_witness_is_the_text_of_the_vectors_and_comes_back() -> None:
    assert write_witness(witness_of(LOG)) == VECTORS["witness"]
    assert read_witness(VECTORS["witness"]) == witness_of(LOG)
    assert read_witness(VECTORS["witness"].replace("\n", "\r\n  ").replace("  ", " ")) == witness_of(LOG)
    assert VECTORS["witness"].splitlines()[1].split()[1] == VECTORS["keys"]["recovery"]["text"]
    assert f"head      {LOG.head}" in VECTORS["witness"]
    assert witness_of(LOG).releases == 2


def test_two_devices_that_saw_the_same_hear_it() -> None:
    found = compare_witnesses(witness_of(LOG), read_witness(write_witness(witness_of(LOG))))
    assert (found.verdict, found.entry) == ("same", 5)
    assert "both saw the same log: 5 entries" in found.words


def test_one_that_saw_more_is_ahead() -> None:
    ahead = compare_witnesses(witness_of(LOG), witness_of(first(3)))
    behind = compare_witnesses(witness_of(first(4)), witness_of(LOG))
    assert (ahead.verdict, ahead.entry) == ("ahead", 3)
    assert "this device is 2 entries ahead of the other" in ahead.words
    assert (behind.verdict, behind.entry) == ("behind", 4)
    assert "the other device is 1 entry ahead of this one" in behind.words


@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_a_fork_is_found_at_the_entry_where_it_begins(at: int) -> None:
    found = compare_witnesses(witness_of(LOG), witness_of(forked(at)))
    assert (found.verdict, found.entry) == ("fork", at)
    assert found.words.startswith(
        f"FORK: the logs part at entry {at}, which is {LOG.entries[at - 1].hash[:16]}"
    )
    assert "\n" not in found.words


def test_a_fork_is_found_however_long_both_logs_are() -> None:
    for count in (2, 3, 5):
        found = compare_witnesses(witness_of(first(count)), witness_of(forked(2)))
        assert (found.verdict, found.entry) == ("fork", 2)


def test_logs_of_two_servers_are_no_fork() -> None:
    other = ReleaseLog.begin(KEY, OTHER, 1)
    found = compare_witnesses(witness_of(LOG), witness_of(other))
    assert found.verdict == "other"
    assert "two servers" in found.words


def test_an_empty_log_has_nothing_to_witness() -> None:
    with pytest.raises(ReleaseError):
        witness_of(ReleaseLog())
    assert isinstance(LOG.entries[1].content, Card)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "palate release witness 1\n" + text.partition("\n")[2],
        lambda text: text.replace("entry 2", "entry 3"),
        lambda text: text.replace("entry 1", "entry 0"),
        lambda text: "\n".join(text.splitlines()[:-1]),
        lambda text: text.replace("head", "tail"),
        lambda text: text.replace("palate1", "palate2"),
        lambda text: text.replace(LOG.head, LOG.head[:-1]),
        lambda text: text + "entry 6   " + "0" * 64 + "\n",
        lambda text: text + "anything\n",
        lambda text: text.replace(LOG.entries[1].hash, "X" * 64),
        lambda text: "\n".join(line for line in text.splitlines() if "server" not in line),
    ],
)
def test_a_text_that_is_not_whole_is_refused_in_one_line(change: object) -> None:
    assert callable(change)
    with pytest.raises(ReleaseError) as caught:
        read_witness(change(VECTORS["witness"]))
    assert "\n" not in str(caught.value)
