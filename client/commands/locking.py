"""`palate unlock`, `lock`, `passphrase`: who opens the vault, for how long, and by which words.

A new passphrase is chosen here too, for `palate init`, `import` and `export`: line ends are refused, since a
file or a program puts them there and nobody can type them, and a weak passphrase is named. It is not refused:
whose vault it is decides. How weak is judged by zxcvbn (Wheeler, "zxcvbn: Low-Budget Password Strength
Estimation", USENIX Security 2016).
"""

import re
from datetime import datetime, timedelta
from typing import Annotated

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json
from palate.shared.errors import OptionError

NEW_VARIABLE = "PALATE_NEW_PASSPHRASE"
_UNITS = {"s": 1, "m": 60, "h": 3600}
_JUDGED_CHARACTERS = 72  # zxcvbn reads no more
_STRONG = 4  # zxcvbn's best score: 10^10 guesses or more


def unlock(
    time: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long: 90s, 15m or 8h, at most 24h.")
    ] = "15m",
    home: Home = None,
    json: Json = False,
) -> None:
    """Give the passphrase once: for some time the other commands do not ask for it.

    A process of its own keeps the key in memory, never on the disk, and gives it to your programs only. It
    ends after the time, at palate lock, and when the vault is erased or its passphrase changed. The commands
    export and passphrase ask all the same.

    Examples:

        palate unlock

        palate unlock --for 2h
    """
    from palate.client.device import Device
    from palate.client.vault import agent
    from palate.client.vault.folder import read_lock
    from palate.client.vault.sealing import derive_key
    from palate.client.vault.vault import Vault

    seconds = read_time(time)
    place = shell.home_of(home)
    if not Device.is_locked_by_passphrase(place):
        raise OptionError(
            f"the vault in {place} is locked by the system's keyring; there is nothing to unlock"
        )
    given = shell.ask_passphrase(f"Passphrase of the vault in {place}")
    clear = read_lock(place)
    key = derive_key(given, clear.salt)
    with shell.hinting(given):
        Vault.open(place, key=key).close()
    agent.start_agent(place, clear, key, seconds)
    until = datetime.now().astimezone() + timedelta(seconds=seconds)
    if json:
        shell.print_json({"home": str(place), "until": until.isoformat(timespec="seconds")})
        return
    shell.tell(f"the vault in {place} opens without its passphrase until {until:%H:%M}")
    shell.tell("to end that earlier: palate lock")


def lock(home: Home = None, json: Json = False) -> None:
    """Forget the key that palate unlock keeps; commands ask for the passphrase again.

    Example:

        palate lock
    """
    from palate.client.vault.agent import end_agent
    from palate.client.vault.folder import read_lock

    place = shell.home_of(home)
    ended = end_agent(read_lock(place))
    if json:
        shell.print_json({"home": str(place), "ended": ended})
    else:
        shell.tell(f"the vault in {place} is locked" + ("" if ended else "; it was locked before too"))


def passphrase(home: Home = None, json: Json = False) -> None:
    """Change the passphrase of the vault.

    Asks for the present one (or reads PALATE_PASSPHRASE) and for the new one (or reads
    PALATE_NEW_PASSPHRASE). Copies of the vault and files of palate export that were made before still open
    with the old one.

    Example:

        palate passphrase
    """
    from palate.client.device import Device
    from palate.client.vault.agent import end_agent
    from palate.client.vault.folder import read_lock

    place = shell.home_of(home)
    if not Device.is_locked_by_passphrase(place):
        raise OptionError(f"the vault in {place} is locked by the system's keyring and has no passphrase")
    old = shell.ask_passphrase(f"Present passphrase of the vault in {place}")
    with shell.hinting(old):
        device = shell.with_notices(Device.open(place, old))
    with device:
        new = new_passphrase("New passphrase", variable=NEW_VARIABLE)
        before = read_lock(place)
        device.vault.change_passphrase(new)
    end_agent(before)
    name_weakness(new)
    if json:
        shell.print_json({"home": str(place)})
    else:
        shell.tell(f"the vault in {place} has a new passphrase")
        shell.tell("copies and exported files from before still open with the old one")


def new_passphrase(question: str, *, variable: str = shell.PASSPHRASE_VARIABLE) -> str:
    """Ask for a new passphrase twice, or read it from the environment.

    Raises:
        OptionError: a line end in it, or two different answers.
        WrongPassphraseError: there is nobody to ask.
    """
    chosen = shell.ask_passphrase(question, twice=True, variable=variable)
    refuse_line_ends(chosen, variable)
    return chosen


def name_weakness(chosen: str) -> None:
    """Name a weak passphrase on stderr, once what it locks is locked."""
    if weak := describe_weakness(chosen):
        shell.say(f"warning: {weak}")


def refuse_line_ends(chosen: str, variable: str) -> None:
    """Raise `OptionError` for a passphrase that holds a line end: nobody could type it."""
    if "\n" in chosen or "\r" in chosen:
        raise OptionError(
            f"the passphrase in {variable} holds a line end, which nobody can type; take it out, as "
            f'{variable}="$(cat FILE)" does'
        )


def describe_weakness(chosen: str) -> str:
    """Return how soon a weak passphrase is guessed, and what a better one is; empty for a good one."""
    from zxcvbn import zxcvbn

    if not chosen:
        return ""
    found = zxcvbn(chosen[:_JUDGED_CHARACTERS])
    if found["score"] >= _STRONG:
        return ""
    reason = found["feedback"]["warning"].rstrip(".")
    seconds = found["crack_times_display"]["offline_slow_hashing_1e4_per_second"]
    return (
        f"this passphrase is weak{f' ({reason[0].lower()}{reason[1:]})' if reason else ''}: "
        f"a program that has your files would guess it in {seconds}. "
        "Better: four or more words picked at random, by dice or from a book"
    )


def read_time(text: str) -> float:
    """Return the seconds in "90s", "15m" or "8h"; raises `OptionError`."""
    found = re.fullmatch(r"([0-9]{1,6})([smh])", text)
    if found is None:
        raise OptionError(f"--for is {text!r}; give a number and s, m or h, as 90s, 15m or 8h")
    return float(found[1]) * _UNITS[found[2]]
