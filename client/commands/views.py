"""How profile, comments and scores look on a terminal: shapes and colours; values are the device's."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from palate.client.commands.shell import plain
from palate.client.reader import read_verdict

if TYPE_CHECKING:
    from palate.client.demo.page import DemoFiles
    from palate.client.demo.showcase import Showcase
    from palate.client.doctor import Health
    from palate.client.painter.create import Made
    from palate.client.painter.gallery import PictureFiles
    from palate.client.records import Taught
    from palate.client.taste.profile import Preference, Profile
    from palate.client.taste.scoring import PictureScore

LIKE, DISLIKE, FAINT = "green", "red", "bright_black"
BAR = 16  # characters
QUOTED = 2  # of the person's own words for an attribute
GAP = 2  # characters between two columns
LEAST_LAST = 20  # characters of a wide last column
LISTED = 12
"""How many comments are shown one by one after a lesson of many."""

_EIGHTHS = " ▏▎▍▌▋▊▉"


def view_bar(share: float, style: str, width: int = BAR) -> Text:
    """Return a bar that is `share` (0 to 1) full, to an eighth of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return Text(bar, style=style) + Text("·" * (width - len(bar)), style=FAINT)


def view_interval(probability: float, low: float, high: float, width: int = 24) -> Text:
    """Return a scale from 0 to 1 with the interval drawn on it and the probability marked."""
    first, last = int(low * (width - 1)), round(high * (width - 1))
    mark = round(probability * (width - 1))
    style = LIKE if probability >= 0.5 else DISLIKE
    scale = Text()
    for place in range(width):
        inside = first <= place <= last
        sign = "●" if place == mark else "━" if inside else "·"
        scale.append(sign, style=f"bold {style}" if place == mark else style if inside else FAINT)
    return scale


def view_profile(
    profile: "Profile", comments: Sequence["Taught"], missing: tuple[int, int]
) -> RenderableType:
    """Return both lists with bars, evidence, conflicts, vetoes, and how much more is needed."""
    if not (profile.likes or profile.dislikes or profile.vetoed):
        said = "the comments so far say nothing about looks" if comments else "there are no comments yet"
        return Text(f"The profile is empty: {said}. Teach one with: palate teach PICTURE --comment TEXT")
    parts: list[RenderableType] = []
    for title, style, preferences in (
        ("Likes", LIKE, profile.likes),
        ("Dislikes", DISLIKE, profile.dislikes),
    ):
        parts.append(
            Rule(Text(f"{title} ({len(preferences)})", style=f"bold {style}"), align="left", style=FAINT)
        )
        parts.append(
            _view_preferences(preferences, style) if preferences else Text("  none yet", style=FAINT)
        )
    if profile.conflicts:
        parts.append(Rule(Text("Said both ways", style="bold yellow"), align="left", style=FAINT))
        for conflict in profile.conflicts:
            outcome = "counts as neither"
            if conflict.outcome:
                kind = "liked" if conflict.outcome > 0 else "disliked"
                outcome = f"counts as {kind}, {abs(conflict.outcome):.2f}"
            parts.append(
                plain(
                    f"  {conflict.attribute}: liked in {', '.join(conflict.liked_by)}; "
                    f"disliked in {', '.join(conflict.disliked_by)}; {outcome}"
                )
            )
    for change in profile.changes:
        turned = "liked" if change.liked else "disliked"
        parts.append(
            plain(f"{change.attribute}: {turned} since {change.created[:10]} ({change.comment})", "yellow")
        )
    if profile.vetoed:
        parts.append(plain(f"Vetoed: {', '.join(profile.vetoed)}", FAINT))
    parts += [Text(""), view_needed(*missing)]
    return Group(*parts)


def view_needed(liked: int, disliked: int) -> Text:
    """Return one line on how many more liked and disliked pictures are worth giving."""
    if not liked and not disliked:
        return Text(
            "8 liked and 8 disliked pictures are there: enough to score well; more still helps a little.",
            style=FAINT,
        )
    wanted = [f"{count} {kind}" for count, kind in ((liked, "liked"), (disliked, "disliked")) if count]
    return Text(
        f"Still worth giving: {' and '.join(wanted)} (palate teach PICTURE --like, or --dislike); "
        "8 of each make scores good.",
        style=FAINT,
    )


def view_taught(taught: "Taught", *, new: bool = True) -> RenderableType:
    """Return one comment with what was understood from it."""
    comment = taught.comment
    head = Text(comment.id, style="bold cyan")
    if comment.liked is not None:
        head += Text("  liked" if comment.liked else "  disliked", style=LIKE if comment.liked else DISLIKE)
    if not new:
        head += Text("  (taught before; counted once)", style=FAINT)
    if not comment.text:
        return head
    head += Text("  “") + plain(comment.text.replace("\n", " ")) + Text("”")
    found = Text()
    for mention in sorted(taught.mentions, key=lambda one: (-one.polarity, -one.strength)):
        style = LIKE if mention.polarity > 0 else DISLIKE
        found += Text("+ " if mention.polarity > 0 else "− ", style=f"bold {style}")
        place = f" ({mention.term})" if mention.term not in (None, mention.attribute) else ""
        doubt = "?" if mention.unsure else ""
        found += plain(mention.attribute, style)
        found += Text(
            f"{doubt}{' (vague)' if mention.vague else place} {mention.strength:.2f}   ", style=FAINT
        )
    if read_verdict(comment.text) is not None:
        found = Text("taken as your verdict", style=FAINT)
    elif not taught.mentions:
        found = Text(
            "nothing about looks understood; say what you like or dislike: colours, light, lines, mood …",
            style=FAINT,
        )
    return Group(head, Padding(found, (0, 0, 0, 4)))


def view_lessons(
    taught: Sequence["Taught"], before: Collection[str], missing: tuple[int, int]
) -> RenderableType:
    """Return what was learned, comment by comment or as a number, and what is still worth giving."""
    said = [one for one in taught if one.comment.text or len(taught) == 1]
    parts: list[RenderableType] = [
        view_taught(one, new=one.comment.id not in before) for one in said[:LISTED]
    ]
    if len(taught) > len(parts):
        known = sum(one.comment.id in before for one in taught)
        again = f", {known:,} of them known before" if known else ""
        parts.append(Text(f"{len(taught):,} pictures taught{again}; palate comments lists them"))
    return Group(*parts, view_needed(*missing))


class NamedRows:
    """A table of files that keeps their names whole.

    The names are the first column where there is room for them. Where there is not, each stands on a line of
    its own above its row, so that it can be copied and no column gets too narrow to read.
    """

    def __init__(self, name: str, columns: Sequence[tuple[str, int]], *, last: str = "") -> None:
        """Take the headings of names and columns, the columns' widths, and the heading of a wide last one."""
        self._name, self._columns, self._last = name, columns, last
        self._rows: list[tuple[str, list[Text]]] = []

    def add(self, name: str, cells: Sequence[Text]) -> None:
        """Add a file and what there is to say about it."""
        self._rows.append((name, list(cells)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the one table, or a line and a table for each file."""
        names = max((cell_len(name) for name, _ in self._rows), default=0)
        needed = (
            names + GAP + sum(width + GAP for _, width in self._columns) + (LEAST_LAST if self._last else 0)
        )
        if needed <= options.max_width:
            table = self._table(heading=True)
            for name, cells in self._rows:
                table.add_row(plain(name), *cells)
            yield table
            return
        heading = self._table(heading=True, names=False)
        yield Padding(heading, (0, 0, 0, GAP))
        for name, cells in self._rows:
            yield plain(name)
            table = self._table(heading=False, names=False)
            table.add_row(*cells)
            yield Padding(table, (0, 0, 0, GAP))

    def _table(self, *, heading: bool, names: bool = True) -> Table:
        table = Table(box=None, padding=(0, GAP, 0, 0), header_style="bold", show_header=heading)
        if names:
            table.add_column(self._name, no_wrap=True)
        for title, width in self._columns:
            table.add_column(title, width=width, no_wrap=True)
        if self._last:
            table.add_column(self._last, overflow="fold", ratio=1)
        return table


def view_scores(scores: Sequence["PictureScore"]) -> RenderableType:
    """Return the chance that the person likes each picture, with its interval and its reasons."""
    table = NamedRows("picture", (("chance", 6), ("0         90 %         1", 24)), last="because")
    for one in scores:
        because = Text()
        for reason in one.because:
            sign, style = ("+", LIKE) if reason.weight > 0 else ("−", DISLIKE)
            amount = "" if reason.more else "little "
            because += plain(f"{sign}{amount}{reason.attribute}  ", style)
        scale = view_interval(one.probability, one.low, one.high)
        table.add(one.image, [Text(f"{one.probability:>6.0%}"), scale, because])
    return table


def view_made(made: Sequence["Made"], files: "PictureFiles") -> RenderableType:
    """Return which files were written, and how likely the person likes what is in them."""
    beside = any(other is not None for _, other in files.pairs)
    columns = [("seed", max(4, *(len(str(one.picture.seed)) for one in made))), ("chance you like it", 18)]
    table = NamedRows("picture", [*columns, ("without profile", 15)] if beside else columns)
    for one, (file, _) in zip(made, files.pairs, strict=True):
        cells = [Text(str(one.picture.seed), justify="right"), Text(f"{one.probability:>18.0%}")]
        if beside:
            without = one.impersonal_probability
            cells.append(Text("" if without is None else f"{without:>15.0%}"))
        table.add(str(file), cells)
    return Group(table, plain(f"all together: {files.sheet}", FAINT))


def view_showcase(show: "Showcase", files: "DemoFiles") -> RenderableType:
    """Return what was understood from which comment, and how the judge rates the pictures."""
    from palate.client.demo.page import judged_lines

    parts: list[RenderableType] = []
    for person in show.people:
        parts.append(Rule(Text(person.name, style="bold"), align="left", style=FAINT))
        parts += [view_taught(one) for one in person.taught]
        likes = ", ".join(f"{one.attribute} {one.strength:.2f}" for one in person.profile.likes[:8])
        dislikes = ", ".join(f"{one.attribute} {one.strength:.2f}" for one in person.profile.dislikes[:8])
        parts += [Text("likes     ", style=f"bold {LIKE}") + plain(likes, LIKE)]
        parts += [Text("dislikes  ", style=f"bold {DISLIKE}") + plain(dislikes, DISLIKE), Text("")]
    parts.append(Rule(Text("How well did it go?", style="bold"), align="left", style=FAINT))
    parts += [plain(line) for line in judged_lines(show)]
    parts += [Text(""), plain(f"contact sheet: {files.sheet}"), plain(f"page:          {files.page}")]
    parts.append(Text(f"done in {show.seconds:.0f} s; the vaults of the two are erased", style=FAINT))
    return Group(*parts)


def view_health(health: "Health") -> RenderableType:
    """Return what the doctor found."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    processor = health.processor
    table.add_row("palate", f"{health.palate}, Python {health.python}, {health.system}")
    table.add_row(
        "packages", ", ".join(f"{name} {version or 'missing'}" for name, version in health.packages.items())
    )
    facts = [f"{processor['cores']} cores", str(processor["name"])]
    if "threads" in processor:
        facts += [
            f"{processor['threads']} threads",
            f"bfloat16 {'fast' if processor['bfloat16'] else 'slow or unknown'}",
        ]
        facts += [f"cuda {processor['cuda'] or 'no'}", f"mps {'yes' if processor['mps'] else 'no'}"]
    table.add_row("processor", ", ".join(facts))
    table.add_row("runs on", health.runs_on or "nothing yet: torch is missing")
    if health.speed is not None:
        speed = health.speed
        table.add_row(
            "speed", f"{speed.steps} steps in {speed.seconds:.2f} s (loading took {speed.load_seconds:.1f} s)"
        )
    total, peak = health.memory["total_bytes"], health.memory["peak_bytes"]
    memory = [f"{total / 2**30:.1f} GiB in this machine"] if total else []
    memory += [f"{peak / 2**20:.0f} MiB used at most by this command"] if peak else []
    table.add_row("memory", ", ".join(memory) or "unknown")
    for weight in health.weights:
        found = (
            f"{(weight.bytes or 0) / 1e6:.1f} MB, sha256 {weight.sha256[:16]}…"
            if weight.sha256
            else "missing"
        )
        table.add_row("weights", f"{weight.file}: {found}")
    vault = health.vault
    table.add_row(
        "vault",
        plain(f"{vault['home']}, locked by {vault['lock']}" if vault["lock"] else f"{vault['trouble']}"),
    )
    lines = [plain(f"trouble: {one}", DISLIKE) for one in health.troubles] or [Text("all well", style=LIKE)]
    return Group(table, *lines)


def _view_preferences(preferences: Sequence["Preference"], style: str) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(min_width=16, overflow="fold")
    table.add_column(width=BAR)
    table.add_column(justify="right")
    table.add_column(style=FAINT)
    table.add_column(style=FAINT, overflow="fold", ratio=1)
    for one in preferences:
        name = plain(one.attribute)
        if one.edited:
            name += Text(" (locked)" if one.locked else " (by hand)", style="yellow")
        table.add_row(
            name,
            view_bar(one.strength, style),
            f"{one.strength:.2f}",
            plain(one.category),
            _evidence(one),
        )
    return table


def _evidence(one: "Preference") -> Text:
    """Return the person's own words for the attribute, and where they said them."""
    if not one.comments:
        return Text("")
    quotes = ", ".join(f"“{quote}”" for quote in one.quotes[:QUOTED])
    more = f" and {len(one.comments) - 1} more" if len(one.comments) > 1 else ""
    return plain(f"{quotes} in {one.comments[-1]}{more}")
