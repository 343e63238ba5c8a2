"""A preview in words: what would leave, and what it would cost.

Where it stands in the flow: `preview` measures, and the command line shows these lines before a person
agrees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from palate.client.federation.outbox import ALL_WEIGHTS, UPDATE_KIND, Leaving
from palate.client.privacy import describe_cost

if TYPE_CHECKING:
    from palate.client.federation.preview import Preview


def cost_after(preview: Preview) -> str:
    """Return in words what is spent after one more such round."""
    figures = (preview.epsilon_after, preview.epsilon_after_if_all_add, preview.epsilon_after_alone)
    counted, if_all_add, alone = (0.0 if one is None else one for one in figures)
    return describe_cost(counted, if_all_add, alone)


def describe_bytes(leaving: Leaving) -> str:
    """Return in words what bytes that leave are; of a note in the outbox the same as of a preview."""
    within = (
        "over all weights"
        if leaving.within == ALL_WEIGHTS
        else f"in the public directions {leaving.within[:12]}"
    )
    if not leaving.numbers:  # a note of an earlier version
        return f"{leaving.bytes_up:,} bytes: a {leaving.kind}"
    what = "an update as it is" if leaving.kind == UPDATE_KIND else f"a {leaving.kind}"
    return f"{leaving.bytes_up:,} bytes: {what}, {leaving.numbers:,} numbers of {leaving.bits} bits {within}"


def describe_shortly(preview: Preview) -> list[str]:
    """Return the few lines that a person is shown before being asked."""
    lines = [f"would leave in a round: {describe_bytes(preview.leaving)}"]
    noise = preview.noise
    if not preview.learned:
        lines.append(
            f"under noise and mask a change of nothing: {preview.labels} labels, and to learn from them "
            f"takes {preview.least_labels}"
        )
    else:
        lines.append(
            f"under noise and mask a change trained on {preview.labels} labels, of length "
            f"{preview.norm:.3g}, cut to "
            f"{preview.norm_clipped:.3g}, with noise of length {noise.own:.3g}; somebody who knows all but "
            f"the counted noise can guess whether you took part, and is right {noise.guess:.0%} of the time"
        )
    if preview.leaving_unmasked is not None:
        lines.append(
            f"in a round without masks, which you allow: {describe_bytes(preview.leaving_unmasked)}; much "
            "of what it was trained on can be rebuilt from it"
        )
    if preview.stays_out:
        lines.append(f"this device would stay out of a round now: {preview.stays_out}")
    elif preview.epsilon_after is not None:
        lines.append(
            f"privacy spent: epsilon {preview.epsilon_spent:.3g} of {preview.epsilon_budget:g}; after such "
            f"a round {cost_after(preview)}"
        )
    return [*lines, f"not protected: {'; '.join(preview.unprotected[:2])}; more in `palate outbox --preview`"]
