"""The only words about a device's refusals that ever leave it.

Where it stands in the flow: a device that does not do what was asked answers with one of these texts, and the
server counts it by `word_of`. They are about the message or the software. They say nothing about the person,
or about what came of training: a device whose training fails answers like every other
(`client.federation.contribution`). A person who stays out for reasons of their own sends no answer.
"""

from __future__ import annotations

from enum import StrEnum


class DeclineReason(StrEnum):
    """Why a device did not do what was asked: the only words about it that ever leave."""

    UNKNOWN_BUNDLE = "the run's bundle is not one that this device knows"
    UNKNOWN_MESSAGE = "the message is not one that this device answers"
    UNREADABLE_TASK = "the task cannot be read"
    UNMASKED = "this device takes part in masked rounds only"
    MASKS_REFUSED = "the masked round is not one that this device takes part in"
    UNSIGNED = "the invitation is not signed by the key that this device trusts"
    SETTINGS_REFUSED = "the task's settings are not ones that this device trains with"
    OTHER_ENCODER = "the task is for an encoder with other fixed tensors"
    OLDER_RELEASE = "the task is for a release older than this device's"
    ENCODER_TOO_LARGE = "the task's encoder is out of bounds"
    TRAINING_FAILED = "local training failed"  # of devices before this version: no device says so any more
    NOT_NOTED = "the outbox could not be written, so nothing was sent"
    FAILED = "the device failed"


def word_of(text: object) -> str:
    """Return a short word for a reason, "error" for any other text: what a device writes is not repeated."""
    try:
        return DeclineReason(text).name.lower().replace("_", " ")  # type: ignore[arg-type]
    except ValueError:
        return "error"
