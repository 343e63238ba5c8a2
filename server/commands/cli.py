"""`palate server start`, `run`, `status` and the others, for the person who runs the server.

Where it stands in the flow: the command line finds this group by the entry point `palate.commands` and loads
it when it is called. Results go to stdout, everything else to stderr; a failure is one line and an exit
status, which the command line above sees to.
"""

from __future__ import annotations

import json as jsonlib
import tomllib
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from palate.server.commands import carry as carry_cli
from palate.server.commands import console, following, run_notes
from palate.server.commands import keys as key_cli
from palate.server.commands import registrar as registrar_cli
from palate.server.commands import releases as release_cli
from palate.server.commands.console import Home, Json
from palate.shared.errors import FederationError, FileFormatError, OptionError

if TYPE_CHECKING:
    from palate.server.checkpoints import Checkpoint
    from palate.server.rounds.run import ServerFolder
    from palate.server.settings import RunSettings

app = typer.Typer(
    help=(
        "Run the common side of a federation.\n\n"
        "Start with: palate server start, let devices join with palate join, then palate server run and "
        "palate server release."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)


@app.command()
def start(
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine only with --tls.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.")] = 8000,
    tls: Annotated[Path | None, typer.Option(help="Folder with ca.crt, server.pem and server.key.")] = None,
    root_certificates: Annotated[
        Path | None, typer.Option(help="PEM file of the root certificates, instead of ca.crt.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the server's certificate, instead of server.pem.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="PEM file of the server's private key, instead of server.key.")
    ] = None,
    admitted_only: Annotated[
        bool, typer.Option("--admitted-only", help="Take only devices admitted with palate server admit.")
    ] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay until the server ends or Ctrl-C.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Start the server in the background; a run that was cut short goes on by itself.

    For example:

        palate server start

        palate server start --host 0.0.0.0 --tls certificates --admitted-only
    """
    from palate.server.processes import deployed

    folder = console.folder_of(home)
    address = deployed.Address(
        host,
        port,
        tls=_place(tls),
        root_certificates=_place(root_certificates),
        certificate=_place(certificate),
        key=_place(key),
        admitted_only=admitted_only,
    )
    with console.dots(f"starting the server on {folder.home}"):
        server = deployed.start(folder, address)
    unfinished = deployed.wanted(folder)
    if json:
        console.print_json({**asdict(server), "home": str(folder.home), "resumed": unfinished is not None})
    else:
        console.out(
            f"the server listens at {address.near} (process {server.pid}); logs are in {folder.home / 'logs'}"
        )
        if unfinished is not None:
            console.out(f"the run up to round {unfinished.rounds} goes on")
    if foreground:
        following.stay(folder)


@app.command()
def admit(
    key: Annotated[
        Path | None,
        typer.Argument(metavar="KEY.pub", help="Public key of the device; its private half stays there."),
    ] = None,
    name: Annotated[str, typer.Option(help="What you call the device.")] = "",
    listed: Annotated[bool, typer.Option("--list", help="Show which devices are admitted.")] = False,
    remove: Annotated[str, typer.Option(metavar="NAME", help="Take back the admission of a device.")] = "",
    home: Home = None,
    json: Json = False,
) -> None:
    """Let a device join a server that is started with --admitted-only; whether it runs now or not.

    The device's owner makes the key with ssh-keygen -t ecdsa -b 256 -N "" -f palate-key, sends you
    palate-key.pub, and joins with palate join SERVER --key palate-key.

    For example:

        palate server admit palate-key.pub --name "Mara's laptop"

        palate server admit --list

        palate server admit --remove "Mara's laptop"
    """
    from palate.server.front import admission
    from palate.server.processes import deployed

    folder = console.folder_of(home)
    if (key is not None) + listed + bool(remove) != 1:
        raise OptionError("name a public key to admit, or take --list, or --remove NAME")
    if listed:
        found = admission.list_admitted(folder.admitted)
        if json:
            console.print_json({"devices": [asdict(one) for one in found]})
            return
        for one in found:
            console.out(f"{one.name or '(no name)'}  since {one.when}  {one.key[:60]}...")
        if not found:
            console.out("no device is admitted yet")
        return
    done = admission.dismiss(folder, remove) if remove else admission.admit(folder, cast(Path, key), name)
    server = deployed.running(folder)
    if server is not None:
        deployed.ask_server(server, "admit")
    if json:
        console.print_json({**asdict(done), "admitted": not remove})
    else:
        named = f" ({done.name})" if done.name else ""
        console.out(
            f"the device{named} may join no more" if remove else f"admitted; the device{named} may join"
        )
    if not remove and server is not None and not server.address.admitted_only:
        console.say("note: the server that runs takes every device; it asks for keys with --admitted-only")


@app.command()
def run(
    rounds: Annotated[
        int, typer.Option(min=1, help="How many rounds, from where the federation stands.")
    ] = 3,
    devices: Annotated[
        int | None, typer.Option(help="How many updates a round collects.", show_default="3")
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(
            help="The least number of updates for a round to count.", show_default="4 of 5; 2 if unmasked"
        ),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds a round may take.", show_default="120")
    ] = None,
    wait: Annotated[
        float | None, typer.Option(help="Seconds to wait for devices.", show_default="120")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML file with more settings.")] = None,
    unmasked: Annotated[
        bool,
        typer.Option(
            "--unmasked", help="See each device's update alone; only devices that allow it take part."
        ),
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Submit it and do not wait.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Train the shared encoder with the connected devices, and show how it goes.

    Rounds are masked and noised: the server sees sums over at least the quorum, and books what they cost in
    its privacy ledger. Noise comes from the devices. Where a registrar vouches for them (palate server
    certify), or the server takes admitted ones only, half of a sum's devices are counted on to add theirs
    (honest_share); where anybody may join, only a device's own noise is counted on, and each device adds so
    much more.

    The settings file takes every setting by name, those of local training in a table [local], of masks and
    noise in [privacy]:

        strategy = "fedadam"

        server_learning_rate = 0.01

        [privacy]

        noise_multiplier = 4.0

        epsilon = 8.0

    A table [privacy.plan] adds noise of the server's own that cancels over the rounds, for fleets that cannot
    be sampled.

    For example:

        palate server run --rounds 10 --devices 20 --quorum 15
    """
    from palate.server.checkpoints import read_checkpoint
    from palate.server.processes import deployed
    from palate.server.releases.release_keys import KeyFiles

    folder = console.folder_of(home)
    kept = read_checkpoint(folder.checkpoint)
    given = {"devices": devices, "quorum": quorum, "deadline_seconds": deadline, "wait_seconds": wait}
    wanted = _settings(
        settings, {name: value for name, value in given.items() if value is not None}, unmasked
    )
    before = kept.round if kept else 0
    wanted = _complete(folder, replace(wanted, rounds=before + rounds), before)
    log = (
        key_cli.delegate_round_key(KeyFiles(folder.home), datetime.now(UTC))
        if deployed.running(folder)
        else None
    )
    number = deployed.submit(folder, wanted)
    if log is not None and (line := run_notes.nearly_over(log)):
        console.say(f"note: {line}")
    if wanted.privacy is not None:
        run_notes.say_notes(wanted, wanted.privacy, rounds)
    if detach:
        console.print_json({"run": number}) if json else console.out(
            f"run {number} is submitted; see palate server status"
        )
        return
    try:
        ended = following.show(folder, number, before)
    except KeyboardInterrupt:
        console.say("the run goes on; see palate server status, or end it with palate server stop --run")
        raise
    kept = read_checkpoint(folder.checkpoint)
    if ended.get("ended") != "finished":
        raise FederationError(str(ended.get("reason", "the run was stopped")))
    _say_end(folder, number, kept, before, json=json)


@app.command()
def status(home: Home = None, json: Json = False) -> None:
    """Say whether the server runs, what it is doing, and where the federation stands.

    For example:

        palate server status --json
    """
    from palate.server.checkpoints import read_checkpoint
    from palate.server.processes import deployed
    from palate.server.releases.folder import read_log
    from palate.server.rounds.run import read_note
    from palate.shared.releases.message import time_of

    folder = console.folder_of(home)
    server = deployed.running(folder)
    kept = read_checkpoint(folder.checkpoint)
    wanted = deployed.wanted(folder)
    log = read_log(folder.releases)
    releases = [card.release for _, card in log.releases] if log else []
    found: dict[str, Any] = {
        "home": str(folder.home),
        "running": server is not None,
        "healthy": server is not None and deployed.healthy(server),
        "address": server.address.near if server else None,
        "pid": server.pid if server else None,
        "round": kept.round if kept else 0,
        "last": dict(kept.metrics) if kept else None,
        "run_up_to": wanted.rounds if wanted else None,
        "now": read_note(folder.now) if wanted and server else {},
        "ended": read_note(folder.ended),
        "releases": releases,
        "good_until": time_of(log.statement.until) if log else None,
    }
    if json:
        console.print_json(found)
        return
    console.out(
        f"the server listens at {found['address']} (process {found['pid']})"
        if server
        else "no server runs here"
    )
    console.out(
        f"the federation stands at round {found['round']}; releases: "
        f"{', '.join(map(str, releases)) or 'none yet'}"
    )
    if log is not None and (line := run_notes.nearly_over(log)):
        console.out(line)
    if wanted:
        console.out(
            f"a run up to round {wanted.rounds} is "
            f"{'at work' if server else 'to be taken up at the next start'}"
        )
    if kept and kept.metrics:
        refused = ", ".join(f"{count} {reason}" for reason, count in kept.metrics["refused"].items())
        console.out(
            f"the last round used {kept.metrics['used']} updates of {kept.metrics['asked']} devices"
            + (f" ({refused})" if refused else "")
        )
    if found["ended"].get("ended") == "failed":
        console.out(f"the last run ended: {found['ended']['reason']}")


app.command()(registrar_cli.certify)
app.command()(registrar_cli.slots)
app.command()(key_cli.key)
app.command()(release_cli.privacy)
app.command()(release_cli.release)
app.command()(carry_cli.prepare)
app.command()(carry_cli.sign)
app.command()(carry_cli.take)


@app.command()
def curves(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new or an empty folder for TensorBoard's files.")
    ],
    home: Home = None,
    json: Json = False,
) -> None:
    """Write the figures of all rounds so far as curves for TensorBoard.

    This needs an extra: pip install 'palate[tensorboard]'. The same figures are in rounds.jsonl in the
    server's folder.

    For example:

        palate server curves ./curves
    """
    from palate.server.metrics import write_curves

    place = folder.expanduser().resolve()
    rounds = write_curves(console.folder_of(home).rounds, place)
    if json:
        console.print_json({"rounds": rounds, "folder": str(place)})
    else:
        console.out(
            f"{place} holds the curves of {rounds} rounds; look at them with: tensorboard --logdir {place}"
        )


@app.command()
def stop(
    run: Annotated[bool, typer.Option("--run", help="End the run at work for good, not the server.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Stop the server, or with --run the run at work.

    A run that the server's end cuts short goes on at its next start.

    For example:

        palate server stop
    """
    from palate.server.processes import deployed

    folder = console.folder_of(home)
    done = deployed.drop_run(folder) if run else deployed.stop(folder)
    what = "run" if run else "server"
    if json:
        console.print_json({"stopped": done})
    else:
        console.out(f"the {what} is stopped" if done else f"there is no {what} to stop")


def _place(path: Path | None) -> str:
    return str(path.expanduser().resolve()) if path else ""


def _settings(file: Path | None, given: dict[str, Any], unmasked: bool) -> RunSettings:
    from palate.server.settings import RunSettings

    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise FileFormatError(f"{file} cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise FileFormatError(f"{file} is no TOML: {' '.join(str(error).split())}") from None
    if unmasked and "privacy" in found:
        raise OptionError(
            f"--unmasked and the table [privacy] in {file} contradict each other; take one away"
        )
    masked: dict[str, Any] = {} if unmasked else {"privacy": {}}
    merged = masked | found | given
    devices = merged.get("devices", RunSettings.devices)
    if not unmasked and "quorum" not in merged and type(devices) is int:
        merged["quorum"] = max(2, -(-4 * devices // 5))
    return RunSettings.from_json(jsonlib.dumps(merged, default=str))


def _complete(folder: ServerFolder, wanted: RunSettings, before: int) -> RunSettings:
    """Return the settings with what the folder knows; raise now what would end the run in round 1."""
    if wanted.privacy is None:
        return wanted
    wanted = replace(wanted, privacy=(privacy := run_notes.count_on(folder, wanted.privacy)))
    if privacy.plan is not None:
        from palate.server.rounds.planned import masks_and_plan

        masks_and_plan(wanted)
    if privacy.registrar:
        from palate.server.rounds.slots import peek_slot

        peek_slot(folder.home, bytes.fromhex(privacy.registrar), before + 1)
    return wanted


def _say_end(folder: ServerFolder, number: str, kept: Checkpoint | None, before: int, *, json: bool) -> None:
    """Say what a run that has ended came to."""
    round_ = kept.round if kept else 0
    counted = following.counted_rounds(folder, before)
    if json:
        console.print_json(
            {"run": number, "round": round_, "counted": counted, "last": dict(kept.metrics) if kept else {}}
        )
    elif counted:
        console.out(
            f"the federation stands at round {round_}; {counted} of {round_ - before} rounds moved the "
            "encoder; make a release: palate server release"
        )
    else:
        console.out(
            f"no round had enough answers: after round {round_} the encoder is what it was, and there is "
            "nothing to release; see that devices are joined and allowed to take part, then run again"
        )
