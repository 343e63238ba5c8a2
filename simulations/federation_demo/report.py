"""Shows how the federation's demonstration went: rounds, release, outboxes, and what was found in what was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def show_report(console: Console, report: Mapping[str, Any]) -> None:
    """Print a report of `federation_demo.run_demo`."""
    from rich.table import Table
    from rich.text import Text

    def say(line: str = "", style: str = "") -> None:
        console.print(Text(line, style=style), soft_wrap=True)

    for one in report["rounds"]:
        refused = ", ".join(f"{number} {reason}" for reason, number in one["refused"].items())
        say(
            f"round {one['round']}: {one['used']} of {one['asked']} updates in {one['seconds']:.1f} s"
            + (f" ({refused})" if refused else "")
        )
    device, server, release = report["device_killed"], report["server_killed"], report["release"]
    say(f"{device['name']}'s device was killed after round {device['after_round']} and came back")
    say(f"the server was killed in round {server['in_round']} and took the run up again by itself")
    say(f"release {release['release']} was made of round {release['round']} (encoder {release['hash'][:12]})")
    say(f"before that: {release['refused']}")
    for device in report["devices"]:
        say()
        say(f"{device['name']}, {device['labels']} labels: palate outbox", "bold")
        say(device["shown"].rstrip())
    say()
    capture, control = report["capture"], report["control"]
    table = Table(box=None, pad_edge=False, title="searched for in what was sent", title_justify="left")
    for name in ("", "needles", "found", "found where a device sends it on purpose"):
        table.add_column(name, justify="left" if not name else "right")
    for kind, number in sorted(capture["needles"].items()):
        found, control_found = capture["found"].get(kind, 0), control["found"].get(kind, 0)
        table.add_row(
            kind, f"{number:,}", Text(str(found), style="bold red" if found else ""), f"{control_found:,}"
        )
    console.print(table)
    say(
        f"{capture['connections']} connections, {capture['bytes_to_server']:,} bytes to the server, "
        f"{capture['bytes_to_devices']:,} to the devices, {len(capture['updates'])} updates, all of them in an outbox"
        if not report["wrong"]
        else f"{capture['connections']} connections, {len(capture['updates'])} updates"
    )
    say(f"the server on what the indiscreet device sent: {control['server_said']}")
    for line in report["wrong"]:
        say(f"not as it should be: {line}", "bold red")
    say(f"{report['seconds']:.0f} s; everything is in {report['folder']}")
