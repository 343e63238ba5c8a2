"""How the federation's demonstration went.

Is everything as it should be, and the report for a person to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def find_wrong(report: Mapping[str, Any], rounds: int) -> list[str]:
    """Return a line for everything in a report that is not as it should be."""
    from palate.shared.encoder import encoder_hash, load_encoder
    from palate.simulations.federation_demo.processes import Peers

    wrong = []

    def expect(right: bool, line: str) -> None:
        if not right:
            wrong.append(line)

    numbers = [one["round"] for one in report["rounds"]]
    expect(numbers == list(range(1, rounds + 1)), f"the server has kept the rounds {numbers}")
    expect(all(one["counted"] for one in report["rounds"]), "a round had too few updates")
    expect(
        report["rounds"][-1]["used"] == len(report["devices"]), "not every device took part in the last round"
    )
    ended = report["server_killed"]["ended"]
    expect(report["server_killed"]["resumed"], "there was nothing to resume when the server came back")
    expect((ended or {}).get("ended") == "finished", f"the run ended so: {ended}")
    installed, made = load_encoder(), report["release"]
    expect(made["release"] > installed.release, "the release is not newer than the installed one")
    expect(made["hash"] != encoder_hash(installed), "the release is the installed encoder")
    expect(
        "noise" in made["refused"], f"the test before the release does not speak of noise: {made['refused']}"
    )
    for device in report["devices"]:
        done = {one["round"] for one in device["outbox"]}
        expect({1, rounds} <= done, f"{device['name']} sent updates of the rounds {sorted(done)} only")
        spent = device["privacy"]
        expect(
            spent["epsilon_if_all_add"] < spent["epsilon"] <= min(spent["epsilon_alone"], spent["budget"]),
            f"{device['name']}'s device has spent {spent}",
        )
    kept = report["privacy"]
    expect(
        kept["if_all_add_epsilon"] < kept["epsilon"] <= min(kept["alone_epsilon"], kept["budget"]),
        "the server's ledger does not say what holds if devices add no noise",
    )
    noted = {one["sha256"] for device in report["devices"] for one in device["outbox"]}
    gone = {one["sha256"] for device in report["devices"] for one in device["outbox"] if one["sent"]}
    seen = set(report["capture"]["updates"])
    expect(gone <= seen, "the tap has missed updates that an outbox lists as sent")
    expect(seen <= noted, "an update was sent that no outbox lists")
    peers = report["peers"]
    expect(
        peers["samples"] > 0 or not Peers.can_watch(), "nobody has watched what the devices were connected to"
    )
    expect(
        set(peers["seen"]) <= {peers["tap"]},
        f"devices were connected to {peers['seen']}, not to the tap alone",
    )
    expect(not report["capture"]["found"], f"found in what was sent: {report['capture']['found']}")
    missed = set(report["control"]["needles"]) - set(report["control"]["found"])
    expect(not missed, f"the search does not find what an indiscreet device sends: {sorted(missed)}")
    expect(not report["control"]["updates"], "the indiscreet device sent an update")
    return wrong


def show_report(console: Console, report: Mapping[str, Any]) -> None:
    """Print a report of `story.run_demo`."""
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
        f"{capture['bytes_to_devices']:,} to the devices, {len(capture['updates'])} updates, all of them "
        "in an outbox"
        if not report["wrong"]
        else f"{capture['connections']} connections, {len(capture['updates'])} updates"
    )
    say(f"the server on what the indiscreet device sent: {control['server_said']}")
    for line in report["wrong"]:
        say(f"not as it should be: {line}", "bold red")
    say(f"{report['seconds']:.0f} s; everything is in {report['folder']}")
