"""Whether a device's answers tell what it learned.

A server that asks encoders, before the device's own code and before that of old.

    python -m benchmarks.oracle [--targets 30]

Thirty people are asked whether they judged a picture with a certain feature, and one person which of the
demo's pictures they judged. Half of the answers are yes. The control is the same attack on devices that tell
when training fails, as they once did: it must be right, or the rest says nothing. On devices as they are,
everything that is seen of a round (kinds and lengths of messages, refusals, the ledger, the outbox) is
compared with what would be seen if the answer were the other one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from PIL import Image

from benchmarks.rows import Row, print_rows
from palate.client.demo.showcase import demo_folder
from palate.client.eye.tower import picture_features
from palate.shared.arrays import Float32s
from palate.shared.encoder import EncoderWeights, load_encoder
from palate.simulations.attacks.oracle import (
    Target,
    ask_now,
    ask_openly,
    guess,
    make_targets,
    picture_targets,
)

COMMAND = "python -m benchmarks.oracle"
TARGETS, PICTURES, JUDGED = 30, 12, 8
SURE = 0.95  # of the targets that the control must get right


def run(quick: bool = False, targets: int = TARGETS) -> list[Row]:
    """Measures all rows; `quick` asks fewer people."""
    own = load_encoder()
    people = make_targets(own, 6 if quick else targets)
    pictures = picture_targets(own, demo_pictures(), JUDGED)
    return [
        compare(
            "people whose answers tell whether they judged a picture with a certain feature", own, people
        ),
        compare("pictures of which one person's answers tell whether they judged them", own, pictures),
    ]


def demo_pictures() -> Float32s:
    """Return the first twelve pictures of the demo as a device sees them, (12, 216)."""
    opened = [Image.open(path).convert("RGB") for path in sorted(demo_folder().glob("*.jpg"))[:PICTURES]]
    return picture_features(opened)


def compare(name: str, own: EncoderWeights, targets: Sequence[Target]) -> Row:
    """Return one row.

    How many answers differ from the twin's, and how often the attack is right where devices tell.
    """
    rng = np.random.default_rng(5)
    before = [ask_openly(own, one) == one.truth for one in targets]
    tell, right = set[int](), list[bool]()
    for taken in (False, True):  # as loud as the wire form allows, and as loud as a device goes along with
        for place, target in enumerate(targets):
            one, twin = ask_now(own, target, taken=taken)
            tell |= {place} if one != twin else set()
            right.append(guess(one, twin, target.truth, rng) == target.truth)
    control = float(np.mean(before))
    extra = {
        "targets": len(targets),
        "right_where_devices_tell": control,
        "right_now_with_a_coin_where_nothing_tells": round(float(np.mean(right)), 3),
    }
    bar = "none, and right of at least 95 % of them where devices tell"
    return Row(name, len(tell), bar, not tell and control >= SURE, COMMAND, extra)


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--targets", type=int, default=TARGETS)
    print_rows(run(targets=p.parse_args().targets))


if __name__ == "__main__":
    main()
