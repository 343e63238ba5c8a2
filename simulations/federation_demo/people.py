"""The people of the federation's demonstration.

What they say about pictures, and what must never leave their devices.

Where it stands in the flow: `federation_demo` gives each of them a device of their own and searches what was
sent for the needles that are made here. Their pictures are drawn for the purpose, with numbers that took no
part in any training.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from palate.client import records
from palate.client.device import Device
from palate.client.reader.comment import check_comment
from palate.client.taste.fitting import ADAPTER_SEED, read_verdicts
from palate.shared.arrays import Float64s
from palate.shared.encoder import load_encoder
from palate.shared.errors import CommentError
from palate.simulations.crowd.people import Person, make_people, sample_shown, verdict
from palate.simulations.crowd.remarks import comment
from palate.simulations.federation_demo.needles import Needles
from palate.simulations.world.render import render

SEED = 3990
FIRST_PICTURE = 29_500_000
PICTURES_APART = 10_000  # from one person's first picture to the next one's
LIKED, DISLIKED = 6, 6
LEAST_WORDS = 5  # of a comment: what is shorter cannot be looked for


@dataclass(frozen=True)
class Private:
    """What a person's device holds and no server may learn."""

    passphrase: str
    comments: tuple[tuple[str, str], ...]  # id and text
    attributes: tuple[str, ...]
    kept: tuple[tuple[str, bytes], ...]  # pictures as the vault holds them, with their ids
    given: tuple[tuple[str, bytes], ...]  # pictures as the person gave them, with their file names
    features: Float64s  # (pictures, 216)
    head: Float64s  # mean and covariance of the evaluator's head, in a row
    adapter: Float64s  # in a row


def choose_people(how_many: int) -> list[Person]:
    """Return virtual people, each of another cohort."""
    found: dict[str, Person] = {}
    for number in count():
        (person,) = make_people(1, SEED, first=number)
        found.setdefault(person.cohort, person)
        if len(found) == how_many:
            return list(found.values())
    raise AssertionError("unreachable")


def write_lessons(person: Person, place: int, folder: Path) -> Path:
    """Show pictures to a person until enough are liked and disliked.

    Returns the file for `palate teach --from`.

    The pictures lie next to it as PNG. `place` is the person's among those of the demonstration.
    """
    rng = random.Random(f"federation demo {person.seed} {person.id}")
    missing = {True: LIKED, False: DISLIKED}
    lessons: list[dict[str, object]] = []
    said: set[str] = set()
    folder.mkdir(parents=True)
    for number in count(FIRST_PICTURE + place * PICTURES_APART):
        truth = sample_shown(rng)
        liked = verdict(person, truth, rng)
        text = comment(person, truth, liked, rng).text
        if not missing[liked] or text in said or not _is_readable(text):
            continue
        name = f"{number}.png"
        Image.fromarray(render(truth, number)).save(folder / name)
        lessons.append({"image": name, "liked": liked, "comment": text})
        said.add(text)
        missing[liked] -= 1
        if not any(missing.values()):
            break
    file = folder / "comments.json"
    file.write_text(json.dumps(lessons, indent=2), encoding="utf-8")
    return file


def read_private(home: Path, passphrase: str, pictures: Path) -> Private:
    """Open a device and returns what is private in it; `pictures` is the folder of those that were given.

    The evaluator is fitted and the adapter trained as `palate score` does it, and the vault keeps the adapter
    if it helps. Where it does not, it is the one that was tried and thrown away. One thread computes, as in
    the devices' processes: on more of them sums come out otherwise, and the last bits of a head would not be
    those that are looked for.
    """
    from threadpoolctl import threadpool_limits

    from palate.client.taste import adapter as adapters

    with threadpool_limits(1), Device.open(home, passphrase) as device:
        profile = device.profile()
        head = device.evaluator(adapt=True)
        verdicts = read_verdicts(device.vault, device.comments(), lambda *_: None)
        encoder = load_encoder()
        plain = device.evaluator(adapt=False)
        weights = adapters._train(encoder, plain, verdicts.liked, verdicts.disliked, ADAPTER_SEED)
        kept = device.vault.list(records.PICTURE)
        return Private(
            passphrase,
            tuple((one.comment.id, one.comment.text) for one in device.comments()),
            tuple(one.attribute for one in (*profile.likes, *profile.dislikes)),
            tuple((picture, device.vault.get(records.PICTURE, picture)) for picture in kept),
            tuple((path.name, path.read_bytes()) for path in sorted(pictures.glob("*.png"))),
            np.concatenate([verdicts.liked, verdicts.disliked]).astype(np.float64),
            np.concatenate([part.ravel() for one in (head, plain) for part in (one.mean, one.covariance)]),
            _flatten(weights),
        )


def make_needles(name: str, private: Private) -> Needles:
    """Return the needles for everything that is private on one person's device.

    `name` is the person's, for findings.
    """
    needles = Needles()
    needles.add_secret("passphrase", name, private.passphrase)
    for id_, text in private.comments:
        needles.add_comment(f"{name}, comment {id_}", text)
    for attribute in private.attributes:
        needles.add_attribute(attribute)
    for picture, data in private.kept:
        needles.add_secret("id of a picture", f"{name}, {picture[:8]}", picture)
        needles.add_bytes("id of a picture", f"{name}, {picture[:8]}, binary", bytes.fromhex(picture))
        needles.add_bytes("kept picture", f"{name}, {picture[:8]}", data)
    for file, data in private.given:
        needles.add_bytes("given picture", f"{name}, {file}", data)
    needles.add_weights("features", name, private.features)
    needles.add_weights("head", name, private.head)
    needles.add_weights("adapter", name, private.adapter)
    return needles


def _is_readable(text: str) -> bool:
    try:
        return len(check_comment(text).split()) >= LEAST_WORDS
    except CommentError:
        return False


def _flatten(weights: bytes) -> Float64s:
    from safetensors.numpy import load

    return np.concatenate([tensor.ravel() for _, tensor in sorted(load(weights).items())]).astype(np.float64)
