"""`palate server key`: the two keys of the log of releases: made, shown, changed, and used to renew the log.

Where it stands in the flow: `cli` registers it next to its own commands; `release_keys` does the work.
Passphrases come from the environment or from a terminal, never from the command line, which others on the
machine can read.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.server.commands import console
from palate.server.commands.console import Home, Json
from palate.shared.errors import OptionError, WrongPassphraseError

if TYPE_CHECKING:
    from palate.server.releases.release_keys import KeyFiles, Passphrases
    from palate.shared.releases.message import ReleaseLog

Days = Annotated[
    int, typer.Option(min=1, max=400, help="For how many days from now the log of releases is good.")
]
Recovery = Annotated[
    Path | None,
    typer.Option("--recovery", help="File of the recovery key, if it is elsewhere.", show_default=False),
]


def key(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new release key; needs the recovery key.")
    ] = False,
    rotate_recovery: Annotated[
        bool, typer.Option("--rotate-recovery", help="Make a new recovery key; needs the old one.")
    ] = False,
    renew: Annotated[
        bool,
        typer.Option("--renew", help="Extend the time for which the log is good; needs the release key."),
    ] = False,
    days: Days = 90,
    recovery: Recovery = None,
    unsealed: Annotated[
        bool,
        typer.Option(
            "--unsealed",
            help="Make keys without a passphrase: anybody who reads their files can sign releases.",
        ),
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Print the text by which people pin this server's releases; the first time, make the two keys.

    The release key signs releases. The recovery key signs changes of keys, so a stolen release key cannot
    keep itself in force: move recovery.key off this machine. The text is the recovery key's, and stays the
    same when the release key changes.

    Both are sealed with a passphrase, asked for on a terminal or taken from PALATE_RELEASE_PASSPHRASE (and
    PALATE_RECOVERY_PASSPHRASE, if the recovery key has one of its own).

    To keep the release key off the server altogether, run this on another machine, and see palate server
    prepare.

    For example:

        palate server key

        palate server key --renew --days 90

        palate server key --rotate --recovery /media/stick/recovery.key
    """
    from palate.server.releases import release_keys
    from palate.server.releases.folder import read_log
    from palate.shared.releases.message import time_of, write_key

    if renew and (rotate or rotate_recovery):
        raise OptionError("a change of keys renews the log too; leave --renew away")
    files = release_keys.KeyFiles(console.folder_of(home).home, recovery)
    before, now = read_log(files.releases), datetime.now(UTC)
    made = before is None
    if rotate or rotate_recovery:
        if before is None:
            raise OptionError("there is no release key to change yet; make one with: palate server key")
        log = release_keys.change_keys(
            files,
            now,
            passphrases_for(files, unsealed=unsealed, release=not rotate),
            release=rotate,
            recovery=rotate_recovery,
            days=days,
        )
    elif renew:
        log = release_keys.renew(files, now, open_release_key(files), days=days)
    else:
        log = before or make_keys(files, now, unsealed=unsealed, days=days)
    text = write_key(log.keys[-1].recovery)
    if json:
        console.print_json(
            {
                "key": text,
                "release_key": write_key(log.keys[-1].release),
                "file": str(files.release_file),
                "recovery_file": str(files.recovery_file),
                "new": made,
                "good_until": time_of(log.statement.until),
            }
        )
        return
    if rotate:
        console.say(
            f"a new release key is in {files.release_file}; devices follow at their next release or round"
        )
    if rotate_recovery:
        console.say(
            f"a new recovery key is in {files.recovery_file}; move it off this machine, and give people the "
            "new text"
        )
    if renew:
        console.say(f"the log of releases is good until {time_of(log.statement.until)[:10]}")
    console.out(text)


def delegate_round_key(files: KeyFiles, now: datetime) -> ReleaseLog:
    """Make sure that the round key may invite devices, before a run begins.

    The passphrase of the release key is needed where that key is sealed.

    Both keys are made the first time. Where a right ends soon and cannot be renewed here, a note says so, and
    the run goes on. Returns the log.

    Raises:
        OptionError, WrongPassphraseError: the round key may not invite.
    """
    from palate.server.releases import release_keys, round_key, sealed_keys
    from palate.server.releases.folder import read_log
    from palate.shared.delegation import decode_delegation

    log = read_log(files.releases)
    if log is None:
        if sealed_keys.is_sealed(files.release_file) is None and _nobody_to_ask():
            raise OptionError(
                "devices follow only invitations that a release key lets this server sign, and there is "
                "none yet: make one with palate server key, here, or on another machine, and carry a folder "
                "there: palate server prepare FOLDER"
            )
        log = make_keys(files, now, unsealed=False, days=90)
    if round_key.needs_delegation(files.home, now):
        found = round_key.read_delegations(files.home, now)
        try:
            key = release_keys.current_key(files, open_release_key(files))
        except (OptionError, WrongPassphraseError) as error:
            if not found or sealed_keys.passphrase_given() is not None:
                raise
            until = datetime.fromtimestamp(decode_delegation(found[0]).expires, UTC)
            console.say(f"note: this server may invite devices until {until.date()}; to renew that: {error}")
            return log
        if key is not None:
            round_key.delegate(files.home, key, now)
    return log


def _nobody_to_ask() -> bool:
    """Return whether a new key's passphrase is neither in the environment nor to be had on a terminal."""
    from palate.server.releases import sealed_keys

    return sealed_keys.passphrase_given() is None and not sys.stdin.isatty()


def make_keys(files: KeyFiles, now: datetime, *, unsealed: bool, days: int) -> ReleaseLog:
    """Make the keys and the log, and say what to do with them."""
    from palate.server.releases import sealed_keys
    from palate.server.releases.release_keys import begin_log

    log = begin_log(files, now, passphrases_for(files, unsealed=unsealed), days=days)
    console.say(f"a new release key is in {files.release_file}; keep a copy of that file, and keep it secret")
    console.say(
        f"a new recovery key is in {files.recovery_file}: move it off this machine; it is needed only when "
        "the release key is lost or stolen"
    )
    if not sealed_keys.is_sealed(files.release_file):
        console.say(
            "warning: both keys are unsealed: anybody who reads these files can sign releases for every "
            "device "
            "that follows this server"
        )
    return log


def passphrases_for(files: KeyFiles, *, unsealed: bool, release: bool = True) -> Passphrases:
    """Return the passphrases that open the keys there are and seal the new ones.

    Raises:
        OptionError: a new key would lie unsealed without `--unsealed`. `release` says that the release key
            there is will be opened, and not replaced.
    """
    from palate.server.releases import sealed_keys
    from palate.server.releases.release_keys import Passphrases

    given = {
        files.release_file: sealed_keys.passphrase_given(),
        files.recovery_file: sealed_keys.recovery_passphrase_given(),
    }
    for path, names in ((files.release_file, "release"), (files.recovery_file, "recovery")):
        sealed = sealed_keys.is_sealed(path)
        if sealed and (release or path == files.recovery_file) and given[path] is None:
            given[path] = _ask(f"passphrase of the {names} key {path}", new=False)
    if not unsealed and None in given.values():
        new = next((one for one in given.values() if one), None) or _ask(
            "a passphrase to seal new keys with", new=True
        )
        given = {path: one or new for path, one in given.items()}
    if None in given.values() and not unsealed:
        raise OptionError(
            "keys are sealed with a passphrase: set PALATE_RELEASE_PASSPHRASE, or run this on a terminal; "
            "with --unsealed they lie open, and anybody who reads their files can sign releases for all your "
            "devices"
        )
    return Passphrases(*given.values())


def open_release_key(files: KeyFiles) -> str | None:
    """Return what opens the release key.

    It comes from the environment, or from a question on a terminal where the key is sealed.
    """
    from palate.server.releases import sealed_keys

    given = sealed_keys.passphrase_given()
    if given is None and sealed_keys.is_sealed(files.release_file):
        return _ask(f"passphrase of the release key {files.release_file}", new=False)
    return given


def _ask(what: str, *, new: bool) -> str | None:
    if not sys.stdin.isatty():
        return None
    answer: str = typer.prompt(what, hide_input=True, confirmation_prompt=new, err=True)
    return answer
