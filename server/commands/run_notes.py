"""What `palate server run` tells its owner about a run: whose noise is counted on, and what will not work.

Where it stands in the flow: `cli` has `count_on` complete the run's settings, and refuse what cannot be,
before it submits them. Notes go to stderr and stop nothing.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from palate.server.commands import console
from palate.server.commands import registrar as registrar_cli
from palate.shared.accounting import Budget
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from palate.server.rounds.run import ServerFolder
    from palate.server.secure_sum.privacy import Privacy
    from palate.server.settings import RunSettings
    from palate.shared.releases.message import ReleaseLog

USUAL_LEAST = 10  # what `palate join` asks for unless told otherwise
USUAL_BUDGET = Budget(8.0, 1e-5)  # the same
NEARLY_OVER_DAYS = 14
"""From how many days before its end on `palate server status` asks for the log of releases to be renewed."""
DROWNED = 2.0
"""From how many lengths of the clip on the noise of a round is said to drown what devices teach."""


def count_on(folder: ServerFolder, privacy: Privacy) -> Privacy:
    """Return the settings with who vouches for devices, and whose noise is counted on."""
    from palate.server.processes import deployed
    from palate.shared.sum_noise import VOUCHED_SHARE

    privacy = replace(privacy, registrar=privacy.registrar or registrar_cli.registrar_of(folder))
    server = deployed.running(folder)
    if privacy.registrar:
        return privacy
    if server is not None and server.address.admitted_only:
        return privacy if privacy.honest_share is not None else replace(privacy, honest_share=VOUCHED_SHARE)
    if privacy.honest_share:
        raise OptionError(
            f"honest_share is {privacy.honest_share:g}, but anybody may join this server, and made-up "
            "devices add no noise; vouch for devices with palate server certify, start with "
            "--admitted-only, or take honest_share = 0"
        )
    return privacy


def say_notes(settings: RunSettings, privacy: Privacy, rounds: int) -> None:
    """Say where devices will refuse, whose noise is counted on, and where noise is too much.

    Devices are taken to be on their usual terms.
    """
    from palate.server.secure_sum.privacy import enough_devices, noise_over_clip, sum_that_is_sure
    from palate.shared.sum_noise import VOUCHED_SHARE

    sure = sum_that_is_sure(privacy, settings.devices, settings.quorum)
    if sure < USUAL_LEAST:
        console.say(
            f"note: with {settings.devices} devices and a quorum of {settings.quorum} only sums of {sure} "
            f"are sure; devices refuse below {USUAL_LEAST} unless they joined with --least-devices "
            f"{max(2, sure)}"
        )
    if privacy.plan is not None:
        most = privacy.plan.separation * settings.quorum
        console.say(
            f"note: a device that was in a sum rests until {privacy.plan.separation} sums later, so it "
            f"takes about {most:,} devices to go on without a break"
        )
        if not privacy.noise_multiplier:
            console.say(
                "note: with a noise_multiplier of 0 next to the plan the devices add no noise, and this "
                "server sees sums without any; devices refuse that unless their owners allowed rounds that "
                "nothing protects"
            )
    alone = privacy.counted_share == 0 and privacy.noise_multiplier > 0
    if alone:
        console.say(
            "note: nobody vouches for the devices, so any of them may be made up, and each adds noise "
            "enough for itself alone; with palate server certify, or --admitted-only, half of them are "
            "counted on, and far less noise does"
        )
    _say_what_budgets_hold(settings, privacy, rounds, sure)
    times = noise_over_clip(privacy, settings.devices, settings.least)
    if times > DROWNED:
        known = replace(privacy, honest_share=VOUCHED_SHARE) if alone else privacy
        enough = enough_devices(known, DROWNED, settings.least / settings.devices)
        console.say(
            f"note: with {settings.devices} devices the noise of a round is {times:.0f} times as long as "
            f"one device's longest change, so little will be learned; from about {enough:,} "
            f"{'vouched-for ' if alone else ''}devices a round on it is worth the while"
        )


def _say_what_budgets_hold(settings: RunSettings, privacy: Privacy, rounds: int, sure: int) -> None:
    """Say so where the devices' usual budget, or the server's own, does not hold all rounds."""
    from palate.server.secure_sum.privacy import own_multiplier
    from palate.shared.accounting import rounds_by_rho

    if not privacy.noise_multiplier:
        return
    of_device = own_multiplier(privacy, settings.least, sure)
    theirs = rounds_by_rho(USUAL_BUDGET, of_device)
    if theirs < rounds:
        held = f"holds {theirs:,} of the {rounds:,} rounds" if theirs else "holds not one round"
        more = "a higher noise_multiplier"
        if privacy.counted_share and not privacy.registrar:
            more = "a registrar, without which a device counts its own noise alone,"
        console.say(
            f"note: the budget that devices usually join with, epsilon {USUAL_BUDGET.epsilon:g}, {held}; "
            f"with {more} it holds more"
        )
    ours = rounds_by_rho(Budget(privacy.epsilon, privacy.delta), privacy.noise_multiplier)
    if privacy.plan is None and privacy.sampling == "fixed" and ours < rounds:
        console.say(
            f"note: the budget of this server, epsilon {privacy.epsilon:g}, holds about {ours:,} rounds "
            "like these in all, and then ends the run"
        )


def nearly_over(log: ReleaseLog) -> str:
    """Return a line on a log of releases that is good for few more days or none, empty for any other."""
    from palate.shared.releases.message import time_of

    left = (log.statement.until - time.time()) / 86_400
    if left >= NEARLY_OVER_DAYS:
        return ""
    return (
        f"the log of releases {'is good until' if left > 0 else 'was good until'} "
        f"{time_of(log.statement.until)[:10]}; after that devices stay out of rounds; renew it: palate "
        "server key --renew"
    )
