"""How `palate outbox` and `palate join` show what was sent, what would be sent, and what was agreed to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from palate.client.commands import shell

if TYPE_CHECKING:
    from rich.table import Table

    from palate.client.consent import Event, Terms
    from palate.client.ledger import OwnSpent
    from palate.client.outbox import Earlier, Sent
    from palate.client.preview import Preview

WORDS = 60  # characters of a comment in a row


def outbox_json(notes: Sequence[Sent], earlier: Earlier) -> list[dict[str, Any]]:
    """Return one object per note, and before them one for the notes that were summed up, if there are any.

    Every object has the same keys, so that a program that reads a list goes on working, and the sums over "updates" and
    "bytes_up" are of everything that was ever sent. What a sum has no value for is null, and its id is "earlier".
    """
    found: list[dict[str, Any]] = [note.to_json() | {"updates": 1} for note in notes]
    if earlier.updates:
        empty = dict.fromkeys(found[0]) if found else {}
        total = {
            "id": "earlier",
            "when": earlier.last,
            "bytes_up": earlier.bytes_up,
            "updates": earlier.updates,
        }
        found.insert(0, empty | total | {"tensors": [], "sent": True})
    return found


def view_outbox(notes: Sequence[Sent], earlier: Earlier) -> Any:
    """Return a table with a row per update, and below it the tensors of the newest."""
    from rich.console import Group

    rows = [
        (
            note.when[:19].replace("T", " "),
            note.server,
            str(note.release),
            str(note.round),
            f"{note.bytes_up:,}",
            f"{note.norm:.4g}",
            ("masked" if note.masked else "without masks") if note.sent else "cut short: it may have left",
        )
        for note in notes
    ]
    table = _table(("when (UTC)", "server", ">release", ">round", ">bytes", ">norm", "sent"), rows)
    tensors = _table(
        ("tensor", "shape", ">norm"),
        [(one.name, _shape(one.shape), f"{one.norm:.4g}") for one in notes[-1].tensors],
    )
    total = f"{len(notes)} updates, {sum(note.bytes_up for note in notes):,} bytes"
    if earlier.updates:
        total += f"; before them {earlier.updates:,} updates, {earlier.bytes_up:,} bytes, the last at {earlier.last[:19]}"
    # A title of the table would be wrapped to the table's width.
    heading = shell.plain("tensors of the newest, and how long each is")
    return Group(table, "", heading, tensors, "", shell.plain(total))


def view_preview(preview: Preview) -> Any:
    """Return what would leave as a page: numbers, tensors, comments, what stays unseen and what is not protected."""
    from rich.console import Group

    from palate.client.preview import describe_shortly

    noise = preview.noise
    if not preview.would_leave or noise is None:
        return shell.plain(describe_shortly(preview)[0])
    lines = [
        f"If a round came now, trained on {preview.labels} labels with release {preview.release}, this would leave:",
        f"  the change of the encoder in {preview.count:,} public directions, in about {preview.bytes_masked:,} masked bytes",
        f"  length {preview.norm:.4g} as trained, {preview.norm_clipped:.4g} as clipped (at most {preview.clip:g})",
        f"  this device's noise has the length {noise.own:.4g}, {_ratio(noise.own, noise.signal)} its change",
        f"  the noise in a sum of {noise.devices} devices has the length {noise.in_sum:.4g}; somebody who knows everything else "
        f"guesses from one sum whether you took part, right {noise.guess:.1%} of the time (50% is no knowledge)",
    ]
    how = "those of the last masked round" if preview.from_last_round else "what servers begin with"
    lines.append(
        f"  clip and noise are {how}; each round's invitation says its own, and is checked against your budget"
    )
    if preview.epsilon_after is not None:
        lines.append(
            f"  privacy spent: epsilon {preview.epsilon_spent:.3g} of {preview.epsilon_budget:g}, after such a round {preview.epsilon_after:.3g}"
        )
    if preview.stays_out:
        lines.append(f"  but this device would stay out now: {preview.stays_out}")
    if preview.bytes_unmasked is not None:
        lines.append(
            f"  in a round without masks, which you allow: {preview.bytes_unmasked:,} bytes, the change as it is"
        )
    tensors = _table(
        ("tensor", "shape", ">as trained", ">as sent"),
        [
            (one.name, _shape(one.shape), f"{one.norm:.4g}", f"{one.norm_clipped:.4g}")
            for one in preview.tensors
        ],
    )
    return Group(
        *map(shell.plain, lines),
        "",
        tensors,
        "",
        *_influences(preview),
        "",
        shell.plain("A server could not see:"),
        *(shell.plain(f"  - {line}") for line in preview.unseen),
        "",
        shell.plain("Not protected:"),
        *(shell.plain(f"  - {line}") for line in preview.unprotected),
        "",
        shell.plain("Nothing was sent. This screen alone shows your comments' words."),
    )


def view_terms(
    terms: Iterable[Terms],
    events: Sequence[Event],
    dropped: int,
    spent: OwnSpent,
    identities: Mapping[str, str],
    left: Mapping[str, int],
) -> Any:
    """Return what is agreed to with which server, what was spent of the privacy budget, and each change of the terms."""
    from rich.console import Group

    held = [
        shell.plain(f"{one.server}: {line}" if not number else f"    {line}")
        for one in terms
        for number, line in enumerate(one.describe())
    ]
    rows = [
        (one.when[:19].replace("T", " "), one.server, one.what, one.terms.describe()[0] if one.terms else "")
        for one in events
    ]
    parts: list[Any] = [*(held or [shell.plain("no terms hold: this device takes part in nothing")])]
    parts += [shell.plain(_spent_line(spent))] if spent.rounds or spent.unprotected_rounds else []
    if rows:
        parts += ["", _table(("when (UTC)", "server", "what", "terms"), rows)]
    for server, identity in identities.items():
        parts += [shell.plain(f"the registrar of {server} knows this device as {identity}")]
        parts += [shell.plain(f"    pseudonyms for {left[server]:,} rounds are left there")]
    if dropped:
        parts += [shell.plain(f"{dropped:,} older entries are no longer kept")]
    return Group(*parts)


def _spent_line(spent: OwnSpent) -> str:
    budget = f"{spent.budget.epsilon:g} at delta {spent.budget.delta:g}"
    line = f"spent: epsilon {spent.protected_epsilon:.3g} of {budget}, in {spent.rounds:,} masked rounds"
    alone = f"; and {spent.unprotected_rounds:,} rounds without protection, which nothing bounds"
    return line + (alone if spent.unprotected_rounds else "")


def _influences(preview: Preview) -> list[Any]:
    if not preview.influences:
        few = f"with one comment fewer than {preview.labels} nothing would leave"
        return [shell.plain(f"Which comment moves the change most cannot be said: {few}.")]
    rows = [
        (
            f"{one.cosine:.3f}" + ("" if one.cosine < preview.chance else " (chance)"),
            "liked" if one.liked else "disliked",
            one.words if len(one.words) <= WORDS else one.words[: WORDS - 3] + "...",
        )
        for one in preview.influences
    ]
    head = f"How alike the change is without each of the last {len(rows)} comments (1 is the same; chance alone makes {preview.chance:.3f}):"
    return [shell.plain(head), _table((">alike", "verdict", "your words"), rows)]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table without lines; a column whose name begins with ">" stands to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    for row in rows:
        table.add_row(*(shell.plain(cell) for cell in row))
    return table


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _ratio(noise: float, signal: float) -> str:
    return f"{noise / signal:.3g} times" if signal else "beside"
