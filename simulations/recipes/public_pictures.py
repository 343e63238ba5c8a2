"""Makes the public pictures on which a server tries an encoder before it becomes a release.

Features, truth, attributes' names.

    python -m palate.simulations.recipes.public_pictures

Draws 640 pictures that no person is shown and that no other recipe uses, looks at them with the shipped
tower, and reads the name of each attribute with the shipped sentence tower (`shared.public_pictures`).
Nothing is learned, nothing is of people. A minute on one core; features are kept in the cache, and the same
bytes come out each time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tqdm import tqdm

from palate.client.reader.sentences import SentenceTower, load_term_embeddings
from palate.shared.encoder import ATTRIBUTE_NAMES
from palate.shared.public_pictures import SHIPPED, load_public_pictures
from palate.simulations.crowd.population import draw_pool
from palate.simulations.recipes.encoder import shows

FIRST_PICTURE = 27_000_000


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=int, default=640)
    p.add_argument("--cache", type=Path, default=Path("runs/public_pictures"))
    p.add_argument("--out", type=Path, default=SHIPPED)
    a = p.parse_args()
    with tqdm(total=a.pictures, desc="looking at pictures", unit="picture") as bar:
        pool = draw_pool(a.pictures, a.cache, bar.update, FIRST_PICTURE)
    rows, names = load_term_embeddings(SentenceTower())
    first = {
        name: row for row, name in zip(rows[::-1], names[::-1], strict=True)
    }  # a term's own name is its first text
    tensors: dict[str, NDArray[Any]] = {
        "features": pool.features.astype(np.float16),
        "shows": shows(pool.truths).astype(np.uint8),
        "words": np.stack([first[name] for name in ATTRIBUTE_NAMES]).astype(np.float16),
    }
    save_file(tensors, a.out)
    found = load_public_pictures(a.out)
    data = a.out.read_bytes()
    card = {
        "name": "public pictures, release 0",
        "recipe": "python -m palate.simulations.recipes.public_pictures",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "pictures": len(found),
        "fewest_pictures_of_an_attribute": int(found.shows.sum(0).min()),
        "data": f"{a.pictures} rendered pictures from number {FIRST_PICTURE:,} on, and the "
        f"{len(ATTRIBUTE_NAMES)} attributes' names; nobody's taste",
        "limits": "Drawn pictures: what an encoder says of photographs is not tried. Features in half "
        "precision.",
    }
    a.out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
