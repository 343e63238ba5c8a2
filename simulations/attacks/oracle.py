"""Attacks on ourselves: a server that reads from a device's answers what its encoders asked.

Where it stands in the flow: `benchmarks.oracle` and the tests put these invitations before the device's own
code (`masked_answers`) and look at everything that the server, or anybody who reads along, can see of
a round: kinds and lengths of messages, refusals, and what the device writes into its ledger and its outbox.

**The question** is an encoder. Its hidden units are dead (their bias is far below 0) except some that fire
if and only if a judged picture lies beyond a hyperplane of the picture features. While all are dead, every
picture has the same place in the taste space, and training moves next to nothing. One that fires is pushed by
the loss over words, whose steps, each as large as settings allow, feed each other through two layers: the
numbers grow until they are none. So "training failed" means "yes, somebody judged such a picture". A
hyperplane around one known picture asks for that very picture.

    asks_for         whether a picture lies far along a direction; `asks_for_picture` whether it is this one
    watch            the encoder of a question: as loud as the wire allows, or within a device's limits
    answer_openly    the old way to answer, which tells of failed training: the positive control
    answer_now       the device's own code in a masked round with others, and all that can be seen of it
    guess            what the best attacker concludes, who knows how either answer would look
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from palate.client.federation import local_training
from palate.client.federation.contribution import no_class
from palate.client.federation.declined import Declined
from palate.client.federation.local_training import LEAST_LABELS, Labels
from palate.client.federation.masked_answers import MaskedAnswers
from palate.client.federation.masked_round import MaskRules
from palate.client.federation.outbox import read_outbox
from palate.client.federation.task_limits import FARTHEST, TRAINING
from palate.client.privacy.budget import PRIVACY_SPENT
from palate.client.runtime.progress import no_notice
from palate.client.vault.store import ONLY, MemoryStore
from palate.server.secure_sum.unmasking import MaskedSum
from palate.shared.arrays import Float32s, Float64s
from palate.shared.coding import encode_model
from palate.shared.encoder import (
    PICTURE_FEATURES,
    SENTENCE_FEATURES,
    SHARED_SHAPES,
    EncoderWeights,
    standardize,
)
from palate.shared.secure_sum.frame import DELIVERY, INVITATION, ROSTER, UNMASK
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.messages import Invitation, encode_invitation
from palate.shared.subspace import load_subspace, subspace_hash
from palate.shared.update import LocalSettings, norm_of
from palate.shared.wire import fixed_hash, kind_of

LOUDEST: Final = LocalSettings(steps=100, learning_rate=10.0, alignment=10.0)
"""The settings of the attack: the most that the wire form can say."""

LOUDEST_TAKEN: Final = LocalSettings(
    steps=int(TRAINING["steps"][1]),
    learning_rate=TRAINING["learning_rate"][1],
    alignment=TRAINING["alignment"][1],
)
"""The most that a device goes along with."""

FREE: Final = MaskSettings(ring_bits=32, step=1e-6, clip=1e-4, noise=16_000.0, least=2)
"""So much noise over so small a clip that a round costs nearly nothing of a budget."""

TAKEN: Final = MaskSettings(ring_bits=32, step=1e-4, clip=0.01, noise=16_000.0, least=2)
"""The same within what a device goes along with."""

ROUNDS: Final = 6
"""Rounds for each target: training drops features by chance, so one question is not enough."""

_ALIVE, _GAIN, _LOUD, _DEAD = 100, 4.0, 3.0, -1.0


@dataclass(frozen=True)
class Question:
    """Whether a standardized picture x (216,) of the person's has `direction` @ x > `threshold`."""

    direction: Float32s
    threshold: float


def asks_for(feature: int, threshold: float) -> Question:
    """Asks for a picture in which one of the 216 features lies above a threshold, in standard deviations."""
    direction = np.zeros(PICTURE_FEATURES, np.float32)
    direction[feature] = 1.0
    return Question(direction, threshold)


def asks_for_picture(encoder: EncoderWeights, features: Float32s, others: Float32s) -> Question:
    """Asks for one picture (216,) among others (n, 216) that it is not to be taken for.

    By a hyperplane between it and them.
    """
    mine, rest = standardize(encoder, features[None])[0], standardize(encoder, others)
    away = mine - rest.mean(0)
    direction = (away / np.linalg.norm(away)).astype(np.float32)
    return Question(direction, float(direction @ mine + (rest @ direction).max()) / 2)


def watch(own: EncoderWeights, question: Question, *, taken: bool = False) -> EncoderWeights:
    """Return the encoder of a question.

    Where it is to be `taken` by a device, as near to it as its own release allows.
    """
    rng = np.random.default_rng(1)
    t = {name: np.zeros(shape, np.float32) for name, shape in SHARED_SHAPES.items()}
    t["picture.hidden.bias"][:] = _DEAD
    t["picture.hidden.weight"][:_ALIVE] = _GAIN * question.direction
    t["picture.hidden.bias"][:_ALIVE] = -_GAIN * question.threshold
    t["picture.taste.weight"][:] = _LOUD * rng.standard_normal(SHARED_SHAPES["picture.taste.weight"])
    t["sentence.taste.weight"][:] = rng.standard_normal(SHARED_SHAPES["sentence.taste.weight"])
    if taken:
        for name, most in FARTHEST.items():
            step = t[name] - own.tensors[name]
            t[name] = own.tensors[name] + step * np.float32(min(1.0, 0.9 * most / norm_of(step)))
    return own.with_shared(t)


# --- how devices answer -------------------------------------------------------------------------------------


@contextmanager
def unbounded() -> Iterator[None]:
    """Trains in this block without the bound on values, as devices did before."""
    before = local_training.BOUND
    local_training.BOUND = math.inf
    try:
        yield
    finally:
        local_training.BOUND = before


def answer_openly(encoder: EncoderWeights, labels: Labels, settings: LocalSettings, seed: int) -> str:
    """Return what a device said that tells what came of training.

    "vector", or "failed", or that it stays out.
    """
    if len(labels) < LEAST_LABELS:
        return "empty"
    with unbounded():
        try:
            local_training.train_locally(encoder, labels, settings, round=1, seed=seed)
        except Exception:  # noqa: BLE001 - whatever it was, it was told as this one word
            return "failed"
    return "vector"


@dataclass(frozen=True)
class Seen:
    """All that can be seen of a device's part in a round except random bytes and times."""

    answers: tuple[tuple[int, int] | str, ...]  # kind and length, or the reason of a refusal
    spent: str
    notes: tuple[str, ...]


def answer_now(
    own: EncoderWeights,
    encoder: EncoderWeights,
    labels: Labels,
    others: Sequence[Labels],
    settings: LocalSettings,
    masks: MaskSettings,
    seed: int,
) -> Seen:
    """Return what can be seen of the first device of a masked round in which the others take part too."""
    within = load_subspace()
    model = encode_model(encoder, own, 32)
    wire = encode_invitation(
        Invitation(1, own.release, fixed_hash(own), seed, settings, masks, model, subspace_hash(within))
    )
    stores = [MemoryStore() for _ in range(1 + len(others))]
    devices = [_device(own, one, store) for one, store in zip((labels, *others), stores, strict=True)]
    total = MaskedSum(wire, masks, within.count + 1)
    seen: list[tuple[int, int] | str] = []

    def ask(kind: int, wires: Mapping[int, bytes]) -> dict[int, bytes]:
        answers: dict[int, bytes] = {}
        for place, message in wires.items():
            said: list[bytes] = []
            try:
                devices[place].answer(kind, message, said.append)
                answer: tuple[int, int] | str = kind_of(said[0]), len(said[0])
                if said[0]:
                    answers[place] = said[0]
            except Declined as declined:
                answer = declined.reason.name
            if not place:
                seen.append(answer)
        return answers

    adverts = ask(INVITATION, dict.fromkeys(range(len(devices)), wire))
    if len(adverts) == len(devices):
        roster, _ = total.adverts(adverts)
        deliveries, _ = total.shares(ask(ROSTER, dict.fromkeys(adverts, roster)))
        vectors = ask(DELIVERY, deliveries)
        if len(vectors) == len(devices):
            unmask, _ = total.masked(vectors)
            total.revealed(ask(UNMASK, dict.fromkeys(vectors, unmask)))
    return Seen(tuple(seen), _without_time(stores[0]), _notes(stores[0]))


def _device(own: EncoderWeights, labels: Labels, store: MemoryStore) -> MaskedAnswers:
    return MaskedAnswers(
        own=lambda: own,
        labels=lambda: labels if len(labels) >= LEAST_LABELS else None,
        rules=MaskRules,
        store=store,
        server="oracle",
        tell=no_notice,
        pause=no_class,
    )


def _without_time(store: MemoryStore) -> str:
    if not store.has(PRIVACY_SPENT, ONLY):
        return ""
    spent: dict[str, Any] = json.loads(store.get(PRIVACY_SPENT, ONLY))
    return json.dumps({name: value for name, value in spent.items() if name != "last"}, sort_keys=True)


def _notes(store: MemoryStore) -> tuple[str, ...]:
    """Return the outbox, without times and without the hash of bytes that are random."""
    notes = [note.to_json() for note in read_outbox(store)]
    for note in notes:
        note |= {"id": "", "when": "", "sha256": bool(note["sha256"])}
    return tuple(json.dumps(note, sort_keys=True) for note in notes)


# --- targets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A person, what is asked about them, what is true, and who they would be if it were not.

    All else alike.
    """

    labels: Labels
    twin: Labels
    question: Question
    truth: bool


def make_targets(own: EncoderWeights, count: int, seed: int = 1) -> list[Target]:
    """Return people, every second of whom judged a picture with one feature three deviations up."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        feature, row, truth = int(rng.integers(PICTURE_FEATURES)), int(rng.integers(12)), number % 2 == 0
        x = np.clip(rng.standard_normal((12, PICTURE_FEATURES)), -1.0, 1.0)
        x[:, feature] = rng.uniform(-1.0, 0.5, 12)
        without = labels_of(own, x, rng)
        x[row, feature] = 3.0
        such = Labels(_raw(own, x), without.liked, without.phrases)
        pair = (such, without) if truth else (without, such)
        found.append(Target(*pair, asks_for(feature, 1.5), truth))
    return found


def picture_targets(own: EncoderWeights, pictures: Float32s, judged: int, seed: int = 1) -> list[Target]:
    """Return one person who judged some of the pictures (n, 216), once for each picture: was it among them?

    The twin judged another picture in its place, or it in the place of another.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pictures))
    mine = [int(one) for one in order[:judged]]
    words = labels_of(own, np.zeros((judged, PICTURE_FEATURES)), rng)
    found = []
    for place, features in enumerate(pictures):
        others = [one for one in range(len(pictures)) if one != place]
        truth = place in mine
        swapped = (
            [int(order[judged]) if one == place else one for one in mine] if truth else [place, *mine[1:]]
        )
        one, twin = (Labels(pictures[which], words.liked, words.phrases) for which in (mine, swapped))
        found.append(Target(one, twin, asks_for_picture(own, features, pictures[others]), truth))
    return found


def labels_of(own: EncoderWeights, standard: Float64s, rng: np.random.Generator) -> Labels:
    """Return labels whose pictures have these standardized features, with verdicts and words at random."""
    phrases = rng.standard_normal((len(standard), SENTENCE_FEATURES))
    phrases /= np.linalg.norm(phrases, axis=1, keepdims=True)
    return Labels(_raw(own, standard), rng.random(len(standard)) < 0.5, phrases.astype(np.float32))


def _raw(own: EncoderWeights, standard: Float64s) -> Float32s:
    t = own.tensors
    return np.asarray(t["feature.mean"] + t["feature.scale"] * standard, np.float32)


def ask_openly(own: EncoderWeights, target: Target) -> bool:
    """Return whether training failed in any round that reached a target, on devices as they were before."""
    encoder = watch(own, target.question)
    return any(answer_openly(encoder, target.labels, LOUDEST, seed) == "failed" for seed in range(ROUNDS))


def ask_now(own: EncoderWeights, target: Target, *, taken: bool, seed: int = 0) -> tuple[Seen, Seen]:
    """Return what is seen of a target in a round and what would be seen of its twin.

    The attack is as it was, or (`taken`) as strong as a device's ranges let it be.
    """
    encoder = watch(own, target.question, taken=taken)
    settings, masks = (LOUDEST_TAKEN, TAKEN) if taken else (LOUDEST, FREE)
    rng = np.random.default_rng(99)
    others = [labels_of(own, rng.standard_normal((12, PICTURE_FEATURES)), rng) for _ in range(2)]
    one, twin = (
        answer_now(own, encoder, labels, others, settings, masks, seed)
        for labels in (target.labels, target.twin)
    )
    return one, twin


def guess(seen: Seen, twin: Seen, truth: bool, rng: np.random.Generator) -> bool:
    """Return what the best attacker says, who knows how both answers look.

    A coin where they look the same.
    """
    return bool(rng.random() < 0.5) if seen == twin else truth
