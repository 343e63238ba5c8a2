"""A whole round gives the bytes of `tests/data/mask_vectors.json`.

`python -m tests.shared.secure_sum.test_mask_vectors` writes them.
"""

import json
from typing import Any

from palate.shared.secure_sum import agreement
from tests.shared.mask_cases import identity
from tests.shared.secure_sum.test_messages import DATA, VECTORS, request, valid, vector_round


def round_vectors() -> dict[str, Any]:
    """What a round gives; the parts and the settings in the file stay as they are."""
    r = vector_round()
    lists = {"adverts": r.adverts, "shares": r.shares, "deliveries": r.deliveries}
    return {
        "invitation": r.invited.hex(),
        "context": r.of[0].context.hex(),
        "session": r.of[0]._session.hex(),
        "levels": r.vectors.tolist(),
        "roster": r.roster.hex(),
        **{name: [found[n].hex() for n in range(4)] for name, found in lists.items()},
        "masked": {str(n): data.hex() for n, data in r.masked.items()},
        "unmask": r.unmask.hex(),
        "revealed": {str(n): data.hex() for n, data in r.revealed.items()},
        "endorsements": [agreement.encode_endorsement(request(), identity(n)).hex() for n in range(4)],
        "agreement": valid("agreement").hex(),
        "sum": r.total.tolist(),  # type: ignore[attr-defined]
    }


def test_a_round_gives_the_bytes_of_the_vectors() -> None:
    for name, found in round_vectors().items():
        assert found == VECTORS[name], name


if __name__ == "__main__":
    changed = {**VECTORS, **round_vectors()}
    DATA.write_text(json.dumps(changed, indent=1) + "\n", encoding="utf-8")
