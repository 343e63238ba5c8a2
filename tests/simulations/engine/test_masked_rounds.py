"""Masked rounds from invitation to release, by the server's and the devices' own code in one process."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from palate.client.federation.local_training import Labels, train_locally
from palate.server.app import grid_devices
from palate.server.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from palate.server.ledger.booking import read_spent
from palate.server.releases.round_key import passing_signer
from palate.server.rounds import run as federation
from palate.server.rounds.exchange import Patience
from palate.server.rounds.loop import derive_seed, run_rounds
from palate.server.rounds.run import ServerFolder, federate
from palate.server.secure_sum.privacy import Privacy
from palate.server.secure_sum.trust_region import REACH, taste_logits
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.coding import decode_model, encode_model
from palate.shared.delegation import message_in
from palate.shared.encoder import SHARED_SHAPES, load_encoder
from palate.shared.errors import PrivacyBudgetError
from palate.shared.public_pictures import load_public_pictures
from palate.shared.secure_sum.frame import AGREEMENT, ENDORSEMENT, MASKED, REVEALED, UNMASK
from palate.shared.subspace import load_subspace
from palate.shared.update import LocalSettings
from palate.shared.wire import kind_of
from palate.simulations.engine.in_process import FIRST_NODE, InProcessGrid
from tests.made_up import make_labels

QUICK = Patience(poll_seconds=0.0)
LOCAL = LocalSettings(steps=1)


PEOPLE = [make_labels(8, seed) for seed in range(6)]


class Killed(BaseException):
    """What nobody can catch, like a kill."""


@contextmanager
def killed_in_round_2() -> Iterator[None]:
    """Expect a run to be killed before it keeps the second round."""

    def dies(path: Path, state: Checkpoint) -> None:
        if state.round == 2:
            raise Killed
        write_checkpoint(path, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "write_checkpoint", dies)
        with pytest.raises(Killed):
            yield


def settings(privacy: Privacy, **changed: object) -> RunSettings:
    values = {"rounds": 1, "devices": 6, "quorum": 4, "deadline_seconds": 30.0, "local": LOCAL, **changed}
    return RunSettings(privacy=privacy, **values)  # type: ignore[arg-type]


def plain(**changed: object) -> Privacy:
    """Masks without noise, in steps so fine that rounding is small."""
    return Privacy(
        **{
            "noise_multiplier": 0.0,
            "clip": 25.0,
            "ring_bits": 24,
            "clip_rate": 0.0,
            "subspace": False,
            "trust_region": 0.0,
            **changed,
        }
    )  # type: ignore[arg-type]


class Grid(InProcessGrid):
    """Remembers the bytes of every message; `quiet` devices stop answering at a kind of message."""

    def __init__(self, people: Sequence[Labels], quiet: dict[int, int] | None = None) -> None:
        super().__init__(people)
        self.down: list[bytes] = []
        self.up: list[bytes] = []
        self._quiet = quiet or {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        kept = list(messages)
        wires = {m.metadata.dst_node_id: m.content["palate"]["wire"] for m in kept}
        self.down += list(wires.values())
        ids = list(super().push_messages(kept))
        for name, message in zip(ids, kept, strict=True):
            node = message.metadata.dst_node_id
            if kind_of(message_in(wires[node])) >= self._quiet.get(node - FIRST_NODE, 99):
                self._replies.pop(name)
        for name in ids:
            if name in self._replies and self._replies[name].has_content():
                self.up.append(self._replies[name].content["palate"]["wire"])
        return ids


def one_round(grid: Grid, run: RunSettings) -> Checkpoint:
    start = Checkpoint(0, load_encoder(), run)
    return list(
        run_rounds(grid_devices(grid), start, average=average, patience=QUICK, sign=passing_signer())
    )[-1]


def mean_of(people: Sequence[Labels], model_bits: int = 8) -> np.ndarray:
    """What those people's changes come to on average, without masks, cut to nothing."""
    shipped = load_encoder()
    encoder = decode_model(encode_model(shipped, shipped, model_bits), shipped)
    changes = [
        train_locally(encoder, labels, LOCAL, round=1, seed=derive_seed(1, 1)).tensors for labels in people
    ]
    return np.mean([np.concatenate([c[n].ravel() for n in SHARED_SHAPES]) for c in changes], axis=0)


def moved_by(state: Checkpoint) -> np.ndarray:
    shipped = load_encoder().tensors
    return np.concatenate([(state.encoder.tensors[n] - shipped[n]).ravel() for n in SHARED_SHAPES])


def test_a_masked_round_moves_the_encoder_by_the_mean_of_all_changes() -> None:
    state = one_round(Grid(PEOPLE), settings(plain()))
    wanted = mean_of(PEOPLE)
    assert state.metrics["used"] == 6
    assert np.linalg.norm(moved_by(state) - wanted) < 0.02 * np.linalg.norm(wanted)


def test_a_sparse_cohort_agrees_first_and_loses_nothing_by_those_who_leave_meanwhile() -> None:
    people = [PEOPLE[n % 6] for n in range(70)]
    grid = Grid(people, quiet={3: UNMASK, 5: AGREEMENT})
    run = settings(plain(threshold_share=0.51), devices=70, quorum=60)
    state = one_round(grid, run)
    wanted = mean_of(people)
    assert state.metrics["used"] == 70
    assert state.metrics["refused"] == {"late": 2}
    assert np.linalg.norm(moved_by(state) - wanted) < 0.02 * np.linalg.norm(wanted)
    kinds = [kind_of(wire) for wire in grid.up]
    assert [kinds.count(kind) for kind in (MASKED, ENDORSEMENT, REVEALED)] == [70, 69, 68]


def test_in_the_subspace_the_encoder_moves_by_what_of_the_mean_lies_there() -> None:
    state = one_round(Grid(PEOPLE), settings(plain(subspace=True, clip=25.0)))
    shipped, within = load_encoder(), load_subspace()
    ends = np.cumsum([0, *(np.prod(shape) for shape in SHARED_SHAPES.values())])
    mean = mean_of(PEOPLE)
    tensors = {
        name: mean[first:last].reshape(shape)
        for (name, shape), first, last in zip(SHARED_SHAPES.items(), ends, ends[1:], strict=False)
    }
    wanted = within.change(within.coordinates(tensors))
    for name in SHARED_SHAPES:
        moved = state.encoder.tensors[name] - shipped.tensors[name]
        assert np.linalg.norm(moved - wanted[name]) <= 0.02 * np.linalg.norm(wanted[name]) + 1e-7
    assert state.metrics["bytes_up"] < 6 * 25_000


@pytest.mark.parametrize("at", [3, 5, 7, 9], ids=["invitation", "roster", "delivery", "unmask"])
def test_devices_that_drop_out_at_any_step_cost_themselves_alone(at: int) -> None:
    run = settings(plain(), deadline_seconds=0.05)
    state = one_round(Grid(PEOPLE, quiet={1: at, 4: at}), run)
    survivors = PEOPLE if at == 9 else [labels for i, labels in enumerate(PEOPLE) if i not in (1, 4)]
    wanted = mean_of(survivors)
    assert state.metrics["used"] == len(survivors)
    assert np.linalg.norm(moved_by(state) - wanted) < 0.02 * np.linalg.norm(wanted)


def test_below_the_quorum_the_round_fails_whole_and_the_encoder_stays() -> None:
    run = settings(plain(), deadline_seconds=0.05, missed_rounds=5)
    state = one_round(Grid(PEOPLE, quiet={1: 7, 3: 7, 4: 7}), run)
    assert (state.metrics["used"], state.missed) == (0, 1)
    assert not moved_by(state).any()
    assert any(reason.startswith("sum:") for reason in state.metrics["refused"])


def test_nobody_sends_an_update_that_can_be_read_alone() -> None:
    grid = Grid(PEOPLE)
    one_round(grid, settings(plain()))
    kinds = [kind_of(wire) for wire in grid.up]
    assert sorted(set(kinds)) == [4, 6, 8, 10]
    masked = [np.frombuffer(wire, np.uint8) for wire in grid.up if kind_of(wire) == 8]
    assert len(masked) == 6
    for wire in masked:  # every byte as likely as every other: chi-square over 256 values
        counts = np.bincount(wire[72:-64], minlength=256)
        expected = counts.sum() / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 400


def test_groups_are_summed_apart_and_give_nearly_the_same_mean() -> None:
    state = one_round(Grid(PEOPLE), settings(plain(group_size=3)))
    wanted = mean_of(PEOPLE)
    assert (state.metrics["used"], state.metrics["groups"]) == (6, 2)
    # Centred clipping shortens the longer of two groups; by how much depends on who is in it, which is drawn
    # anew each time.
    assert np.linalg.norm(moved_by(state) - wanted) < 0.05 * np.linalg.norm(wanted)


def test_centred_clipping_goes_on_from_where_the_last_round_ended(tmp_path: Path) -> None:
    run = settings(plain(group_size=3), rounds=2)
    seen: list[np.ndarray] = []
    federate(
        grid_devices(Grid(PEOPLE)), ServerFolder(tmp_path), run, average=average, patience=QUICK,
        on_round=lambda state: seen.append(state.memory["centre"]),
    )  # fmt: skip
    kept = read_checkpoint(ServerFolder(tmp_path).checkpoint)
    assert kept is not None
    assert np.array_equal(kept.memory["centre"], seen[1])
    assert not np.array_equal(seen[0], seen[1])


def test_noise_is_added_and_booked_and_the_budget_ends_the_run(tmp_path: Path) -> None:
    run = settings(Privacy(noise_multiplier=2.0, epsilon=4.0), rounds=50)
    with pytest.raises(PrivacyBudgetError, match="above the budget of 4"):
        federate(grid_devices(Grid(PEOPLE)), ServerFolder(tmp_path), run, average=average, patience=QUICK)
    spent = read_spent(ServerFolder(tmp_path).ledger)
    assert spent.rounds >= 1
    assert 0 < spent.epsilon <= 4.0


def test_the_clip_follows_the_devices_of_one_sum_as_far_as_one_device_may_carry_it(tmp_path: Path) -> None:
    run = settings(plain(clip=25.0, clip_rate=2.0), rounds=3)
    grid = Grid(PEOPLE)
    last = federate(grid_devices(grid), ServerFolder(tmp_path), run, average=average, patience=QUICK)
    assert last.clip == pytest.approx(25.0 / 1.2)
    assert last.metrics["share_below"] == pytest.approx(
        1.0, abs=0.01
    )  # by which an operator sees that it should be shorter


def test_the_encoder_is_held_near_the_release_that_the_run_grew_from(tmp_path: Path) -> None:
    run = settings(
        Privacy(noise_multiplier=0.0, clip=25.0), rounds=2, strategy="fedadam", server_learning_rate=1.0
    )
    last = federate(grid_devices(Grid(PEOPLE)), ServerFolder(tmp_path), run, average=average, patience=QUICK)
    assert last.metrics["held"] > 0
    features = load_public_pictures().features
    away = taste_logits(last.encoder, features) - taste_logits(load_encoder(), features)
    far = np.sqrt(np.square(away).mean(0))
    assert far.max() == pytest.approx(REACH, abs=1e-3)
    free = federate(
        grid_devices(Grid(PEOPLE)),
        ServerFolder(tmp_path / "free"),
        replace(run, privacy=Privacy(noise_multiplier=0.0, clip=25.0, trust_region=0.0)),
        average=average,
        patience=QUICK,
    )
    away = taste_logits(free.encoder, features) - taste_logits(load_encoder(), features)
    assert np.sqrt(np.square(away).mean(0)).max() > 1.5 * REACH  # the positive control
