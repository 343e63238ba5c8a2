"""What taking part in rounds shows to others, and what it does not: the lines that every preview holds.

Where it stands in the flow: `preview` keeps these lines next to its figures, and a person reads them before
agreeing.
"""

from __future__ import annotations

from palate.client.federation.consent import Terms


def what_is_unseen() -> tuple[str, ...]:
    """Return what no message to a server has room for, or what masks take from it."""
    return (
        "your comments, pictures, attributes and profile, and your own model: no message has room for them",
        "how many labels you have, and whether training came to anything: messages have one length and one "
        "time, whatever was learned",
        "in a masked round this device's change: the server gets numbers that are random alone, and opens "
        "their sum",
    )


def what_is_not_protected(terms: Terms, *, release_key_pinned: bool = False) -> tuple[str, ...]:
    """Return what taking part on these terms gives away, or leaves to trust."""
    open_ = ["that this device takes part or stays out of a round, when, and from which address"]
    if terms.registrar:
        open_ += [
            f"what the sum over at least {terms.least_devices} devices says of all of them together",
            "devices that work with the server: if all others in a sum do, this device's noise alone stands "
            "before its change; the "
            f"budget counts on {terms.honest_share:.0%} of the devices to add theirs (--honest-share)",
        ]
    else:
        open_.append(
            "no registrar is pinned, so a server that cheats can invent the other devices: then it has this "
            "device's change behind its "
            "own noise alone, which is what the budget counts; pin one with --registrar"
        )
    if not (terms.release_key or release_key_pinned):
        open_.append(
            "no release key is pinned, so no release of the server can be told from a forged one, and the "
            "first server to invite is believed; pin "
            "with --release-key what palate server key prints"
        )
    if terms.allow_unmasked:
        open_.append(
            "rounds without masks are agreed to: there the server sees this device's change, and from it "
            "much of what it was trained on can be rebuilt"
        )
    return tuple(open_)
