"""Does a device's own trial of a release refuse bad ones, and let good ones pass?

Virtual people with few labels, five new encoders.

    python -m benchmarks.release_trial [--people 60]

Each person judges pictures, with comments, until so many are liked and as many disliked, and tries five
releases on them as a device does: the shipped encoder in place of a weak one (a good release), the shipped
one moved by a little noise (a usual one), the weak one in place of the shipped one, the shipped one under
noise five times its length, and with every attribute turned to its opposite.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, print_rows
from palate.client.releases.trial import try_encoder
from palate.shared.encoder import EncoderWeights, encoder_from_bytes, load_encoder
from palate.simulations.crowd.people import make_people
from palate.simulations.crowd.population import PEOPLE_SEED, draw_pool, meet_stranger
from palate.simulations.experiments.comparison import WEAK

COMMAND = "python -m benchmarks.release_trial"
PEOPLE, PICTURES, FIRST_PERSON = 60, 1_500, 5_000
EACH = (4, 6, 12, 20)  # liked, and as many disliked
MOST_FALSE, LEAST_FOUND = 0.05, 0.5


def moved(encoder: EncoderWeights, share: float, seed: int) -> EncoderWeights:
    """Return the encoder with noise in it that is `share` of its length."""
    rng, shared = np.random.default_rng(seed), encoder.shared()
    length = float(np.sqrt(sum(float((t.astype(np.float64) ** 2).sum()) for t in shared.values())))
    spread = share * length / np.sqrt(sum(t.size for t in shared.values()))
    return encoder.with_shared(
        {n: (t + spread * rng.standard_normal(t.shape)).astype(np.float32) for n, t in shared.items()}, 1
    )


def opposite(encoder: EncoderWeights) -> EncoderWeights:
    """Return the encoder with every attribute of a picture turned to its opposite."""
    shared = dict(encoder.shared())
    for name in ("picture.taste.weight", "picture.taste.bias"):
        shared[name] = -shared[name]
    return encoder.with_shared(shared, 1)


def cases() -> dict[str, tuple[EncoderWeights, EncoderWeights]]:
    """Return the encoder before and the new one of each case; the first two are good."""
    shipped, weak = load_encoder(), encoder_from_bytes(WEAK.read_bytes())
    return {
        "better": (weak, shipped),
        "moved a little": (shipped, moved(shipped, 0.1, 1)),
        "worse": (shipped, weak),
        "noise": (shipped, moved(shipped, 5.0, 2)),
        "opposite": (shipped, opposite(shipped)),
    }


def run(quick: bool = False, people: int | None = None) -> list[Row]:
    """Measures how often each release is refused; `quick` takes 2 people."""
    count = people if people is not None else 2 if quick else PEOPLE
    with tempfile.TemporaryDirectory(prefix="palate-trial-") as cache:
        pool = draw_pool(300 if quick else PICTURES, Path(cache))
    asked = EACH[-1:] if quick else EACH
    refused: dict[str, dict[str, float]] = {}
    for each in asked:
        met = [
            meet_stranger(one, pool, 1, given=each, asked=0)
            for one in make_people(count, PEOPLE_SEED, first=FIRST_PERSON)
        ]
        for name, (before, new) in cases().items():
            found = [
                try_encoder(before, new, one.liked, one.disliked, tastes=one.tastes).keep_old for one in met
            ]
            refused.setdefault(name, {})[str(2 * each)] = round(float(np.mean(found)), 3)
    most = max(share for name in ("better", "moved a little") for share in refused[name].values())
    last = str(2 * EACH[-1])
    least = min(refused[name][last] for name in ("noise", "opposite"))
    figures = {"people": count, "refused by labels": refused}
    return [
        Row(
            "good releases refused by a device's own trial, most over 8 to 40 labels",
            most,
            f"at most {MOST_FALSE:g}",
            most <= MOST_FALSE,
            COMMAND,
            figures,
        ),
        Row(
            f"broken releases refused by a device's own trial, least, {last} labels",
            least,
            f"at least {LEAST_FOUND:g}",
            least >= LEAST_FOUND,
            COMMAND,
            {},
        ),
    ]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--people", type=int, default=PEOPLE)
    print_rows(run(False, p.parse_args().people))


if __name__ == "__main__":
    main()
