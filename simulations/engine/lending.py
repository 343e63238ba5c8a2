"""Virtual people for whatever engine runs a federation: who answers for a node, and a folder from which other processes know.

Where it stands in the flow: `engine` puts virtual people behind the nodes of a federation in one process. Flower's own simulation
engine starts processes of its own, on this machine or on others; there the device's app asks the entry point `lend_person` who a
node is. What a population is lies in a folder that the environment names (`PALATE_POPULATION`), so that neither the run's bundle
nor its settings carry anything of it:

    population.safetensors   features, liked, phrases of all people's labels, one after the other, and where each person's begin
    encoder.safetensors      the release that their devices have installed
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from palate.client.federation.contribution import no_class
from palate.client.federation.declined import Declined, Send
from palate.client.federation.invitations import Invitations
from palate.client.federation.local_training import LEAST_LABELS, Labels
from palate.client.federation.masked_answers import KINDS, MaskedAnswers
from palate.client.federation.masked_round import MaskRules
from palate.client.federation.member import Participant, answer_task
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
from palate.shared.reasons import Reason
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
        self._masked: MaskedAnswers | None = (
            None  # a person of a large population who is in no masked round needs none
        )

    def take_part(self, task: bytes, send: Send) -> None:
        """Answer one message, as on a device: too few labels make a change of nothing. A virtual person has no privacy budget to lose.

        An invitation must be signed as on a device, by whatever key; whose that is a virtual person does not care.
        """
        kind, up_to = kind_of(task), ANY_RELEASE
        if kind == SIGNED:
            opened = open_by_anybody(task)
            kind, task, up_to = kind_of(opened.message), opened.message, opened.up_to
        elif kind in (TASK, INVITATION):
            raise Declined(Reason.UNSIGNED)
        if kind not in KINDS:
            answer_task(
                task,
                self._mine,
                send,
                log=MemoryStore(),
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
                log=MemoryStore(),
                server=SERVER,
                tell=no_notice,
                budgeted=False,
                pause=no_class,
            )
        self._masked.answer(kind, task, send, up_to)

    def _mine(self) -> Labels | None:
        return self.labels if len(self.labels) >= LEAST_LABELS else None


def open_by_anybody(wire: bytes) -> Opened:
    """Return what was signed, by whatever release key; raises `Declined` where the signatures are not right."""
    return Invitations(MemoryStore(), SERVER, no_notice).open(wire)


def write_population(folder: Path, people: Sequence[Labels], own: EncoderWeights) -> None:
    """Write people's labels and their devices' release into a folder, which is made if need be; raises StorageError."""
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
    """Return one person of a population of `count`; of the others' labels nothing is read.

    Raises FileFormatError where there is no such population, OptionError where there is no such person.
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


def lend_person(number: int, count: int, run_config: Mapping[str, object]) -> Participant:
    """Return the virtual person who is behind a node of Flower's simulation engine; entry point of `palate.participants`.

    Raises OptionError unless the environment names a population of that many people.
    """
    folder = os.environ.get(POPULATION_VARIABLE)
    if not folder:
        raise OptionError(
            f"{POPULATION_VARIABLE} is not set; start the simulation with `palate simulate --engine ray`"
        )
    return read_person(Path(folder), number, count)
