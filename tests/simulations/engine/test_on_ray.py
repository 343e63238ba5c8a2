"""Flower's own simulation engine: the same two apps come to the same bits as in one process.

Slow: Ray takes its time to start.
"""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")

from palate.client.federation.local_training import Labels
from palate.server.app import grid_devices
from palate.server.checkpoints import Checkpoint
from palate.server.releases.round_key import passing_signer
from palate.server.rounds.exchange import Patience
from palate.server.rounds.loop import run_rounds
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.encoder import (
    EncoderWeights,
    encoder_hash,
    flatten,
    load_encoder,
)
from palate.shared.errors import FederationError, OptionError
from palate.simulations.engine.in_process import InProcessGrid
from palate.simulations.engine.on_ray import run_on_ray
from tests.made_up import make_labels

pytestmark = pytest.mark.timeout(1800)


def in_process(
    people: list[Labels], own: EncoderWeights, settings: RunSettings, *, together: bool
) -> Checkpoint:
    devices = grid_devices(InProcessGrid(people, own=own, together=together))
    return list(
        run_rounds(
            devices,
            Checkpoint(0, own, settings),
            average=average,
            patience=Patience(poll_seconds=0.0),
            sign=passing_signer(),
        )
    )[-1]


@pytest.mark.slow
def test_eight_people_on_ray_come_to_the_encoder_of_the_engine_in_one_process(tmp_path: Path) -> None:
    people = [make_labels(count) for count in (3, 6, 9, 14, 20, 31, 44, 60)]
    t = load_encoder().tensors
    own = load_encoder().with_shared(  # not the shipped one, so that everybody must have got it
        {"picture.taste.bias": t["picture.taste.bias"] + np.float32(0.01)}, release=3
    )
    settings = RunSettings(rounds=2, devices=8, quorum=7)
    told: list[int] = []
    ended = run_on_ray(people, settings, tmp_path / "home", own=own, workers=2, on_round=told.append)
    assert told == [1, 2]
    # The first has three labels, too few to learn from: it sends a change of zeros like any other.
    assert (ended.round, ended.metrics["used"], ended.metrics["refused"]) == (2, 8, {})

    alone = in_process(people, own, settings, together=False)
    assert encoder_hash(ended.encoder) == encoder_hash(alone.encoder)
    together = in_process(people, own, settings, together=True)
    start, here, there = (flatten(one.tensors) for one in (own, together.encoder, ended.encoder))
    assert np.linalg.norm(here - there) <= 1e-6 * np.linalg.norm(there)
    assert np.linalg.norm(here - there) <= 1e-4 * np.linalg.norm(there - start)

    # Started again on the same folder it goes on; a run that comes to nothing ends with the server's line.
    more = RunSettings(rounds=5, devices=9, quorum=9, missed_rounds=1, wait_seconds=1.0)
    with pytest.raises(FederationError, match=r"8 of at least 9 devices"):
        run_on_ray(people, more, tmp_path / "home", own=own)


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="workers is -1"):
        run_on_ray([make_labels(6)], RunSettings(), tmp_path, workers=-1)
    assert not list(tmp_path.iterdir())
