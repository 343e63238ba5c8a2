"""`palate server key | privacy | release`: what the person who runs a server publishes, and what that has cost.

Where it stands in the flow: `cli` registers these beside its own commands.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from palate.server import shell
from palate.server.shell import Home, Json
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from palate.server.federation import ServerFolder
    from palate.shared.release import PrivacySpent


def key(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make another key; devices that accepted the old one follow.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Print the text of the release key, by which people pin it; the first time, make the key.

    Set PALATE_RELEASE_PASSPHRASE before that to seal the private half; the same is then needed for every release.

    Examples:

        palate server key

        palate server key --rotate
    """
    from palate.server import inviting, releases, signing
    from palate.shared.release import write_key

    folder = shell.folder_of(home)
    path = folder.home / "release.key"
    made = True
    if rotate:
        public = releases.rotate_key(
            folder.releases, datetime.now(UTC), key_path=path, passphrase=signing.passphrase_given()
        )
    else:
        known = releases.current_public(folder.releases, path)
        made = known is None
        public = known or signing.make_key(path, signing.passphrase_given()).public_key().public_bytes_raw()
    inviting.renew(folder.home, folder.releases, datetime.now(UTC))
    if json:
        shell.print_json({"key": write_key(public), "file": str(path), "new": made})
        return
    if made:
        shell.say(f"a new release key is in {path}; keep a copy of that file, and keep it secret")
    shell.out(write_key(public))


def privacy(home: Home = None, json: Json = False) -> None:
    """Say what the rounds so far have spent of the privacy budget, and check that nothing in the ledger was changed.

    Example:

        palate server privacy
    """
    from palate.server.ledger import read_spent

    folder = shell.folder_of(home)
    if not folder.ledger.exists():
        raise OptionError(f"no round with noise was run in {folder.home} yet, so there is no privacy ledger")
    spent = read_spent(folder.ledger)
    if json:
        shell.print_json(spent.to_json())
        return
    shell.out(
        f"{spent.rounds} rounds have spent epsilon {spent.epsilon:.3g} of {spent.budget:g} at delta {spent.delta:g}, "
        "counted per device, against everybody who sees the releases"
    )
    for plan in spent.plans:
        shell.out(
            f"a noise plan of {plan.rounds} rounds is paid for in that, {plan.done} of them done; it rests on this server, "
            "which adds the noise"
        )


def _spent_for_card(folder: ServerFolder) -> PrivacySpent | None:
    """What a release's card says of the privacy that was spent up to it; nothing without a ledger."""
    from palate.server.ledger import read_spent
    from palate.shared.release import PrivacySpent

    if not folder.ledger.exists():
        return None
    spent = read_spent(folder.ledger)
    return PrivacySpent(spent.epsilon, spent.delta, spent.mechanism)


def release(home: Home = None, json: Json = False) -> None:
    """Make a numbered, signed release of the encoder as it stands, for devices to adopt; the first time, make the key too.

    Example:

        palate server release
    """
    from palate.server import inviting, releases, signing
    from palate.server.checkpoints import read_checkpoint
    from palate.shared.release import write_key

    folder = shell.folder_of(home)
    kept = read_checkpoint(folder.checkpoint)
    if kept is None:
        raise OptionError(f"nothing was trained in {folder.home} yet; train first: palate server run")
    path, passphrase = folder.home / "release.key", signing.passphrase_given()
    found = releases.current_key(folder.releases, path, passphrase)
    if found is None:
        found = signing.make_key(path, passphrase)
        shell.say(f"a new release key is in {path}; keep a copy of that file, and keep it secret")
    card = releases.make_release(
        folder.releases, kept, datetime.now(UTC), key=found, privacy=_spent_for_card(folder)
    )
    inviting.renew(folder.home, folder.releases, datetime.now(UTC))
    text = write_key(found.public_key().public_bytes_raw())
    file, message = (
        name(folder.releases, card.release) for name in (releases.release_path, releases.message_path)
    )
    if json:
        shell.print_json(
            {**releases.card_to_json(card), "file": str(file), "message": str(message), "key": text}
        )
        return
    shell.out(
        f"release {card.release} is {file} (encoder {card.hash[:12]}, {card.updates} updates, round {card.round})"
    )
    shell.out(f"devices take it over with: palate release adopt {message} --key {text}")
