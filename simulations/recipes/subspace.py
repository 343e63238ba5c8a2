"""Makes the public subspace of release 0.

The directions in which devices send their changes when noise must hide them.

    python -m palate.simulations.recipes.subspace

Draws a thousand pictures that no person is shown, looks at them with the shipped tower, and keeps the
directions of largest spread of the encoder's hidden values (`shared.subspace`). Nothing is learned from
people. A minute on one core; features are kept in the cache.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.numpy import save_file
from tqdm import tqdm

from palate.shared.encoder import encoder_hash, load_encoder
from palate.shared.subspace import SHIPPED, load_subspace, subspace_hash, subspace_of
from palate.simulations.crowd.population import draw_pool

PUBLIC_PICTURES = 26_000_000  # the first of them


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=int, default=1_000)
    p.add_argument("--rank", type=int, default=64)
    p.add_argument("--cache", type=Path, default=Path("runs/subspace"))
    p.add_argument("--out", type=Path, default=SHIPPED)
    a = p.parse_args()
    encoder = load_encoder()
    with tqdm(total=a.pictures, desc="looking at pictures", unit="picture") as bar:
        pool = draw_pool(a.pictures, a.cache, bar.update, PUBLIC_PICTURES)
    found = subspace_of(encoder, pool.features, a.rank)
    save_file({"directions": found.directions}, a.out)
    card = {
        "name": "public subspace, release 0",
        "recipe": "python -m palate.simulations.recipes.subspace",
        "encoder": encoder_hash(encoder),
        "hash": subspace_hash(load_subspace(a.out)),
        "rank": a.rank,
        "coordinates": found.count,
        "bytes": a.out.stat().st_size,
        "data": f"{a.pictures} rendered pictures from number {PUBLIC_PICTURES:,} on; no person's taste",
        "limits": "Only the last layer of the picture side moves in it. Made of drawn pictures and of "
        "release 0's hidden layer.",
    }
    a.out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
