"""The virtual people behind the nodes of a simulated federation, in this process or in others.

Where it stands in the flow: `in_process` holds its people in memory. Flower's simulation engine (`on_ray`)
starts processes of its own, also on other machines. There the device's app calls the entry point
`find_participant` with a node's number. The people lie in a folder that the environment variable
`PALATE_POPULATION` names, so neither the run's bundle nor its settings carry them:

    population.safetensors   features, liked, phrases: all people's labels; ends: where each person's end
    encoder.safetensors      the release that their devices have installed
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from palate.client.federation.contribution import no_class
from palate.client.federation.declined import Declined
from palate.client.federation.invitations import Invitations
from palate.client.federation.local_training import LEAST_LABELS, Labels
from palate.client.federation.masked_answers import KINDS, MaskedAnswers
from palate.client.federation.masked_round import MaskRules
from palate.client.federation.member import Participant, answer_task
from palate.client.federation.outbox import Send
from palate.client.runtime.progress import no_notice
from palate.client.vault.store import MemoryStore
from palate.shared.delegation import ANY_RELEASE, SIGNED, Opened
from palate.shared.encoder import (
    PICTURE_FEATURES,
    SENTENCE_FEATURES,
    EncoderWeights,
    encoder_to_bytes,
    load_encoder,
)
from palate.shared.errors import FileFormatError, OptionError, StorageError
from palate.shared.reasons import DeclineReason
from palate.shared.secure_sum.frame import INVITATION
from palate.shared.wire import TASK, kind_of

POPULATION_VARIABLE = "PALATE_POPULATION"
SERVER = "this process"

_LABELS, _ENCODER = "population.safetensors", "encoder.safetensors"
_NONE = "{} holds no population; write one with `write_population`"


class VirtualPerson:
    """A participant whose labels lie in memory."""

    def __init__(self, labels: Labels, own: EncoderWeights) -> None:
        """Take the labels and the release that this person's device has installed."""
        self.labels, self.own = labels, own
        self._masked: MaskedAnswers | None = None  # made for the first masked round

    def take_part(self, task: bytes, send: Send) -> None:
        """Answer one message as a device does: too few labels make a change of zeros.

        An invitation must be signed, by any key. A virtual person has no privacy budget.
        """
        kind, up_to = kind_of(task), ANY_RELEASE
        if kind == SIGNED:
            opened = open_by_anybody(task)
            kind, task, up_to = kind_of(opened.message), opened.message, opened.up_to
        elif kind in (TASK, INVITATION):
            raise Declined(DeclineReason.UNSIGNED)
        if kind not in KINDS:
            answer_task(
                task,
                self._mine,
                send,
                store=MemoryStore(),
                server=SERVER,
                own=self.own,
                pause=no_class,
                up_to=up_to,
            )
            return
        if self._masked is None:
            self._masked = MaskedAnswers(
                own=lambda: self.own,
                labels=self._mine,
                rules=MaskRules,
                store=MemoryStore(),
                server=SERVER,
                tell=no_notice,
                budgeted=False,
                pause=no_class,
            )
        self._masked.answer(kind, task, send, up_to)

    def _mine(self) -> Labels | None:
        return self.labels if len(self.labels) >= LEAST_LABELS else None


def open_by_anybody(wire: bytes) -> Opened:
    """Return what was signed, by any release key; raises `Declined` for a wrong signature."""
    return Invitations(MemoryStore(), SERVER, no_notice).open(wire)


def write_population(folder: Path, people: Sequence[Labels], own: EncoderWeights) -> None:
    """Write people's labels and their devices' release into a folder; raises StorageError."""
    from safetensors.numpy import save_file

    ends = np.cumsum([0, *map(len, people)], dtype=np.int64)
    rows = {
        "features": np.zeros((ends[-1], PICTURE_FEATURES), np.float32),
        "liked": np.zeros(ends[-1], np.bool_),
        "phrases": np.zeros((ends[-1], SENTENCE_FEATURES), np.float32),
    }
    for labels, first in zip(people, ends, strict=False):
        for name, array in rows.items():
            array[first : first + len(labels)] = getattr(labels, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({**rows, "ends": ends}, folder / _LABELS)
        (folder / _ENCODER).write_bytes(encoder_to_bytes(own))
    except OSError as error:
        raise StorageError(f"the population cannot be written to {folder}: {error.strerror}") from None


def population_size(folder: Path) -> int:
    """Return how many people a population has; raises FileFormatError where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _LABELS, framework="numpy") as file:
            return int(file.get_slice("ends").get_shape()[0]) - 1
    except (OSError, SafetensorError, IndexError):
        raise FileFormatError(_NONE.format(folder)) from None


def read_person(folder: Path, number: int, count: int) -> VirtualPerson:
    """Return one person of a population of `count`, without reading the labels of others.

    Raises:
        FileFormatError: the folder holds no population.
        OptionError: the population has another size, or no person of this number.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _LABELS, framework="numpy") as file:
            ends = file.get_tensor("ends")
            if count != len(ends) - 1 or not 0 <= number < count:
                raise OptionError(f"person {number} of {count} is asked; the population has {len(ends) - 1}")
            mine = slice(int(ends[number]), int(ends[number + 1]))
            labels = Labels(*(file.get_slice(name)[mine] for name in ("features", "liked", "phrases")))
    except (OSError, SafetensorError, ValueError, IndexError):
        raise FileFormatError(_NONE.format(folder)) from None
    return VirtualPerson(labels, load_encoder(folder / _ENCODER))


def find_participant(number: int, count: int, _run_config: Mapping[str, object]) -> Participant:
    """Return the virtual person behind a node of Flower's simulation engine.

    This is the entry point of the group `palate.participants`.

    Args:
        number: the node's number, from 0.
        count: how many nodes there are.

    Raises:
        OptionError: the environment names no population of that many people.
    """
    folder = os.environ.get(POPULATION_VARIABLE)
    if not folder:
        raise OptionError(
            f"{POPULATION_VARIABLE} is not set; start the simulation with `palate simulate --engine ray`"
        )
    return read_person(Path(folder), number, count)
