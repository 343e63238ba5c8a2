"""Are the privacy figures that are shown too low?

A canary's audit, with all others honest and with all others silent.

    python -m benchmarks.canary [--quick]

The attack is that of `simulations.attacks.canary`. What it is held against is what a device books and shows
its owner, and for rounds that were sampled what the server's ledger says of a person who is known to have
been in them. The controls are figures that count on noise, or on a secret, that is not there: the audit has
to find more than they say, or it finds nothing anywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.rows import Row, print_rows
from palate.server.ledger.spent import Kind, Spent, spent_by
from palate.server.secure_sum.privacy import Privacy
from palate.shared.accounting import Cost
from palate.simulations.attacks.canary import DELTA, Case, audit, booked, guesses, noise_of

COMMAND = "python -m benchmarks.canary"
DEVICES, SUMS, QUICK_SUMS = 10, 40_000, 12_000
REGISTRAR = "ab" * 32
TRUSTING, ALONE, VOUCHED = Privacy(honest_share=1.0), Privacy(), Privacy(registrar=REGISTRAR)
LOUD = Privacy(registrar=REGISTRAR, noise_multiplier=1.21)
CHANCE, ROUNDS, KNOWN = (
    0.09,
    20,
    2,
)  # of docs/private-run.toml, and the rounds that somebody is known to have been in

HONEST = (
    Case("all counted on, all add", TRUSTING, DEVICES, DEVICES),
    Case("no registrar, all add", ALONE, DEVICES, DEVICES),
    Case("no registrar, all others silent", ALONE, DEVICES, 1),
    Case("registrar, all add", VOUCHED, DEVICES, DEVICES),
    Case("registrar, half silent", VOUCHED, DEVICES, DEVICES // 2),
)
BETRAYED = (
    Case("all counted on, all others silent", TRUSTING, DEVICES, 1),
    Case("registrar, all others silent", VOUCHED, DEVICES, 1),
)
ROSTER = Case(f"known to be in {KNOWN} of {ROUNDS} sampled rounds", LOUD, DEVICES, DEVICES // 2, KNOWN)


def sampled_spent() -> Spent:
    """Return what the server's ledger says of `ROUNDS` sampled rounds like those of `ROSTER`."""
    noise = noise_of(ROSTER)
    kind = Kind(Cost(noise.counted, CHANCE).on_grid(), noise.all_add, noise.alone)
    return spent_by({kind: ROUNDS}, DELTA, 8.0, rounds=ROUNDS, honest_share=LOUD.counted_share)


def run(quick: bool = False) -> list[Row]:
    """Return all rows."""
    sums = QUICK_SUMS if quick else SUMS
    found = {case.name: audit(*guesses(case, sums)) for case in (*HONEST, *BETRAYED, ROSTER)}
    counted = {case.name: booked(case).epsilon for case in (*HONEST, *BETRAYED)}
    alone = {case.name: booked(case).epsilon_alone for case in BETRAYED}
    sampled = sampled_spent()
    known = next(one.epsilon for one in sampled.by_rounds if one.rounds == KNOWN)
    shown = {case.name: counted[case.name] for case in HONEST} | alone | {ROSTER.name: known}
    figures = {name: {"found": round(found[name], 3), "shown": round(shown[name], 3)} for name in found}
    ratio = max(found[name] / shown[name] for name in found)
    old, rosters = BETRAYED[0].name, ROSTER.name
    return [
        Row(
            "canary audit: epsilon found over epsilon shown, most of 8 cases, others honest and silent",
            round(ratio, 3),
            "at most 1",
            ratio <= 1,
            COMMAND,
            {"sums": sums, "cases": figures},
        ),
        Row(
            "control: epsilon found where a figure counts on nine others who are silent",
            round(found[old], 3),
            "above the figure, or the audit is void",
            found[old] > counted[old],
            COMMAND,
            {"figure": round(counted[old], 3)},
        ),
        Row(
            "control: epsilon found of somebody known to be in 2 of 20 sampled rounds",
            round(found[rosters], 3),
            "above the figure with sampling, or the audit is void",
            found[rosters] > sampled.epsilon,
            COMMAND,
            {
                "with_sampling": round(sampled.epsilon, 3),
                "known": round(known, 3),
                "before_the_draws": round(sampled.unsampled_epsilon, 3),
            },
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="fewer sums, which find less")
    print_rows(run(p.parse_args(arguments).quick))


if __name__ == "__main__":
    main()
