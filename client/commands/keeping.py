"""`palate init`, `export`, `import`, `erase`: the vault as a whole."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from palate.client.commands import shell
from palate.client.commands.locking import name_weakness, new_passphrase, refuse_line_ends
from palate.client.commands.shell import Home, Json
from palate.shared.errors import PalateError, VaultError
from palate.shared.hardening import given

EXPORT_VARIABLE = "PALATE_EXPORT_PASSPHRASE"

Keyring = Annotated[
    bool,
    typer.Option(
        "--keyring", help="Keep the key in the system's keyring instead of asking for a passphrase."
    ),
]


def init(home: Home = None, keyring: Keyring = False, json: Json = False) -> None:
    """Make the vault in which everything personal is kept, sealed.

    The passphrase is asked for, or read from PALATE_PASSPHRASE. Nobody can open the vault without it.

    Examples:

        palate init

        palate init --home ~/taste --keyring
    """
    place = _make(home, keyring)
    if json:
        shell.print_json({"home": str(place)})
    else:
        shell.tell(f"the vault is in {place}")
        shell.tell("now say something about a picture: palate teach PICTURE --comment TEXT")


def export(
    file: Annotated[Path, typer.Argument(help="A new file.")],
    other_passphrase: Annotated[
        bool,
        typer.Option(
            "--other-passphrase",
            help=f"Seal the file by a passphrase of its own ({EXPORT_VARIABLE}, or asked for).",
        ),
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Write everything into one sealed file, as a backup or for another device.

    The file opens with the vault's passphrase. A vault that the keyring locks has none, so one is asked for.

    Example:

        palate export taste.palate
    """
    from palate.client.device import Device

    place = shell.home_of(home)
    if other_passphrase or not Device.is_locked_by_passphrase(place):
        with shell.open_device(home) as device:
            passphrase = new_passphrase("Passphrase for the file", variable=EXPORT_VARIABLE)
            count = device.export(file, passphrase)
        name_weakness(passphrase)
    else:
        passphrase = shell.ask_passphrase(f"Passphrase of the vault in {place}")
        with shell.hinting(passphrase), shell.with_notices(Device.open(place, passphrase)) as device:
            count = device.export(file, passphrase)
    if json:
        shell.print_json({"file": str(file), "records": count})
    else:
        shell.tell(f"{count} records are in {file}")


def import_(
    file: Annotated[Path, typer.Argument(help="A file that `palate export` wrote.")],
    spent: Annotated[
        float | None,
        typer.Option(
            "--spent",
            metavar="EPSILON",
            help="Privacy spent in all, if you know it; palate outbox --terms showed it on the lost device.",
            show_default="the whole budget",
        ),
    ] = None,
    home: Home = None,
    keyring: Keyring = False,
    json: Json = False,
) -> None:
    """Take over an exported file into an empty vault; makes the vault if there is none.

    The file's passphrase is asked for, or read from PALATE_EXPORT_PASSPHRASE, else from PALATE_PASSPHRASE. A
    vault that is made here gets the passphrase in PALATE_PASSPHRASE, else the file's.

    What the exported vault did after it was exported is not known, so its whole privacy budget counts as
    spent, unless the system's keyring here remembers better or you say with --spent what it was. A larger
    budget: palate join --epsilon.

    Examples:

        palate import taste.palate --home ~/taste

        palate import taste.palate --spent 2.5
    """
    from palate.client.device import Device
    from palate.client.privacy import read_restored
    from palate.client.vault.export import read_export
    from palate.shared.errors import VaultMissingError

    variable = EXPORT_VARIABLE if given(EXPORT_VARIABLE) else shell.PASSPHRASE_VARIABLE
    passphrase = shell.ask_passphrase(f"Passphrase of {file}", variable=variable)
    place = shell.home_of(home)
    try:
        Device.is_locked_by_passphrase(place)
        device = shell.open_device(home)
        made = False
    except VaultMissingError:
        with shell.hinting(passphrase, variable):
            for _ in read_export(file, passphrase):  # so that a bad file makes no vault
                pass
        if keyring:
            from palate.client.vault.keyrings import SystemKeyring

            device = Device.init(place, keyring=SystemKeyring())
        else:
            chosen = given(shell.PASSPHRASE_VARIABLE) or passphrase
            refuse_line_ends(
                chosen, shell.PASSPHRASE_VARIABLE if given(shell.PASSPHRASE_VARIABLE) else variable
            )
            device = Device.init(place, chosen)
        shell.with_notices(device)
        made = True
    with device:
        if keyring and not made:
            raise VaultError(f"there is a vault in {place} already, with its own lock; leave out --keyring")
        count = device.import_(file, passphrase, spent=spent)
        restored = read_restored(device.vault)
    if restored is not None:
        shell.say(restored.describe())
    if json:
        counted = None if restored is None else restored.epsilon
        shell.print_json({"home": str(place), "records": count, "epsilon_counted": counted})
    else:
        shell.tell(f"{count} records are now in the vault in {place}")


def erase(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Destroy the vault and everything in it, for good; needs no passphrase.

    What was spent of your privacy stays noted in the system's keyring, if there is one: what was sent stays
    sent.

    Example:

        palate erase --home ~/taste
    """
    from palate.client.device import Device
    from palate.client.vault.agent import end_agent
    from palate.client.vault.folder import read_lock

    place = shell.home_of(home)
    if Device.exists(place):
        shell.confirm(f"Erase the vault in {place} and everything in it, for good?", yes)
    with contextlib.suppress(PalateError):  # a vault that cannot be read is erased too
        end_agent(read_lock(place))
    Device.erase(place)
    if json:
        shell.print_json({"erased": str(place)})
    else:
        shell.tell(f"the vault in {place} is gone, and nobody can bring it back")


def _make(home: Path | None, keyring: bool) -> Path:
    from palate.client.device import Device

    place = shell.home_of(home)
    if keyring:
        from palate.client.vault.keyrings import SystemKeyring

        shell.with_notices(Device.init(place, keyring=SystemKeyring())).close()
        return place
    if Device.exists(place):  # said before a passphrase is thought up
        raise VaultError(f"there is a vault in {place} already; use it, or remove it with `palate erase`")
    passphrase = new_passphrase(f"A passphrase for the new vault in {place}")
    shell.with_notices(Device.init(place, passphrase)).close()
    name_weakness(passphrase)
    return place
