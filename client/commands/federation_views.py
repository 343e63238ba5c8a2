"""How `palate outbox` and `palate join` show what was sent, what would be sent, and what was agreed to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from palate.client.commands import shell

if TYPE_CHECKING:
    from rich.table import Table

    from palate.client.federation.consent import Event, Terms
    from palate.client.federation.outbox import Earlier, Sent
    from palate.client.federation.preview import Preview
    from palate.client.privacy import OwnSpent

WORDS = 60  # characters of a comment in a row


def outbox_json(notes: Sequence[Sent], earlier: Earlier) -> list[dict[str, Any]]:
    """Return one object per note, and before them one for the notes that were summed up, if there are any.

    Every object has the same keys, so that a program that reads a list goes on working, and the sums over
    "updates" and "bytes_up" are of everything that was ever sent. What a sum has no value for is null, and
    its id is "earlier".
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
    """Return a table with a row per update, and the tensors of the newest if it went without masks."""
    from rich.console import Group

    from palate.client.federation.preview_words import describe_bytes

    rows = [
        (
            note.when[:19].replace("T", " "),
            note.server,
            str(note.release),
            str(note.round),
            f"{note.bytes_up:,}",
            note.sha256[:12],
            ("masked" if note.masked else "without masks") if note.sent else _cut_short(note),
        )
        for note in notes
    ]
    table = _table(("when (UTC)", "server", ">release", ">round", ">bytes", "SHA-256", "sent"), rows)
    newest = notes[-1]
    parts: list[Any] = [
        table, "", shell.plain(f"the newest: {describe_bytes(newest.leaving)}"),
        shell.plain(f"SHA-256 {newest.sha256 or 'of no bytes'}"),
    ]  # fmt: skip
    if newest.tensors:
        tensors = [(one.name, _shape(one.shape), f"{one.norm:.4g}") for one in newest.tensors]
        parts += [
            "",
            shell.plain("its tensors, and how long each is"),
            _table(("tensor", "shape", ">norm"), tensors),
        ]
    total = f"{len(notes)} updates, {sum(note.bytes_up for note in notes):,} bytes"
    if earlier.updates:
        total += f"; before them {earlier.updates:,} updates, {earlier.bytes_up:,} bytes, "
        total += f"the last at {earlier.last[:19]}"
    return Group(*parts, "", shell.plain(total))


def _cut_short(note: Sent) -> str:
    return "cut short: it may have left" if note.sha256 else "cut short before there was anything to send"


def view_preview(preview: Preview) -> Any:
    """Return what would leave: numbers, tensors, comments, what stays unseen, what is not protected."""
    from rich.console import Group

    from palate.client.federation.preview_words import cost_after, describe_bytes, describe_shortly

    noise = preview.noise
    if not preview.learned:
        return Group(*map(shell.plain, describe_shortly(preview)[:2]), shell.plain("Nothing was sent."))
    lines = [
        "If a round came now, this would leave:",
        f"  {describe_bytes(preview.leaving)}",
        "",
        f"And this stays here, trained on {preview.labels} labels with release {preview.release}:",
        f"  the change under noise and mask: length {preview.norm:.4g} as trained, "
        f"{preview.norm_clipped:.4g} as cut (at most {preview.clip:g})",
        f"  this device's noise has the length {noise.own:.4g}, {_ratio(noise.own, noise.signal)} its change",
        f"  the noise in a sum of {noise.devices} devices that all add theirs has the length "
        f"{noise.in_sum:.4g}; "
        "somebody who knows everything except the noise that is counted guesses from one sum whether you "
        f"took part, right {noise.guess:.1%} of the time (50% is no knowledge)",
    ]
    how = "those of the last masked round" if preview.from_last_round else "what servers begin with"
    lines.append(
        f"  clip and noise are {how}; each round's invitation says its own and is checked against your budget"
    )
    if preview.epsilon_after is not None:
        lines.append(
            f"  privacy spent: epsilon {preview.epsilon_spent:.3g} of {preview.epsilon_budget:g}; "
            f"after such a round {cost_after(preview)}"
        )
    if preview.stays_out:
        lines.append(f"  but this device would stay out now: {preview.stays_out}")
    if preview.leaving_unmasked is not None:
        lines.append(
            "  but in a round without masks, which you allow, the change leaves: "
            f"{describe_bytes(preview.leaving_unmasked)}"
        )
    tensors = _table(
        ("tensor", "shape", ">as trained", ">as cut"),
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
    """Return the terms with each server, what was spent of the privacy budget, and each change of terms."""
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
    parts += [shell.plain(spent_line(spent))] if spent.rounds or spent.unprotected_rounds else []
    if rows:
        parts += ["", _table(("when (UTC)", "server", "what", "terms"), rows)]
    for server, identity in identities.items():
        parts += [shell.plain(f"the registrar of {server} knows this device as {identity}")]
        parts += [shell.plain(f"    pseudonyms for {left[server]:,} rounds are left there")]
    if dropped:
        parts += [shell.plain(f"{dropped:,} older entries are no longer kept")]
    return Group(*parts)


def spent_line(spent: OwnSpent) -> str:
    """Return in a line what was spent of the privacy budget, with and without the other devices' noise."""
    budget = f"{spent.budget.epsilon:g} at delta {spent.budget.delta:g}"
    line = f"spent in {spent.rounds:,} masked rounds, of a budget of {budget}: {spent.describe()}"
    alone = f"; and {spent.unprotected_rounds:,} rounds without protection, which nothing bounds"
    return line + (alone if spent.unprotected_rounds else "")


def _influences(preview: Preview) -> list[Any]:
    if not preview.influences:
        few = f"with one comment fewer than {preview.labels} nothing is learned"
        return [shell.plain(f"Which comment moves the change most cannot be said: {few}.")]
    rows = [
        (
            f"{one.cosine:.3f}" + ("" if one.cosine < preview.chance else " (chance)"),
            "liked" if one.liked else "disliked",
            one.words if len(one.words) <= WORDS else one.words[: WORDS - 3] + "...",
        )
        for one in preview.influences
    ]
    head = (
        f"How alike the change is without each of the last {len(rows)} comments "
        f"(1 is the same; chance alone makes {preview.chance:.3f}):"
    )
    return [shell.plain(head), _table((">alike", "verdict", "your words"), rows)]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table without lines; a column whose name begins with ">" stands to the right."""
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
