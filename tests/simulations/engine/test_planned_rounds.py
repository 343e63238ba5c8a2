"""Masked runs with a noise plan, from invitation to encoder, by the server's and the devices' own code in
one process."""

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from palate.client.federation.masked_round import MaskedRound
from palate.server.app import grid_devices
from palate.server.checkpoints import Checkpoint
from palate.server.ledger.booking import read_spent
from palate.server.ledger.spent import PlanSpent
from palate.server.metrics import read_metrics
from palate.server.noise_plan.correlated import NoiseState, add_noise
from palate.server.noise_plan.folder import NoiseFolder
from palate.server.rounds.planned import masks_and_plan
from palate.server.rounds.run import ServerFolder, federate, read_note
from palate.server.secure_sum.privacy import PlanSettings, Privacy
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.accounting import Cost, epsilon_by_pld
from palate.shared.arrays import Levels
from palate.shared.coding import from_levels
from palate.shared.delegation import message_in
from palate.shared.encoder import SHARED_SHAPES, load_encoder
from palate.shared.errors import FederationError, PrivacyBudgetError
from palate.shared.secure_sum.frame import INVITATION
from palate.shared.secure_sum.messages import decode_invitation
from palate.shared.secure_sum.ring import centred, to_ring
from palate.shared.subspace import load_subspace
from palate.shared.wire import kind_of
from palate.simulations.engine.in_process import FIRST_NODE
from tests.simulations.engine.test_masked_rounds import LOCAL, PEOPLE, QUICK, Grid, killed_in_round_2

PLAN = PlanSettings(steps=3, separation=2, noise_multiplier=2.0)


class Fleet(Grid):
    """Six people's devices; remembers which numbers were invited."""

    def __init__(self) -> None:
        super().__init__(PEOPLE)
        self.everyone = list(self._people.values())
        self.invited: list[set[int]] = []

    def connect(self, people: Iterable[int], first: int = FIRST_NODE) -> None:
        """From now on these people are there, numbered from `first`."""
        self._people = {first + place: self.everyone[place] for place in people}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        kept = list(messages)
        if {kind_of(message_in(m.content["palate"]["wire"])) for m in kept} == {INVITATION}:
            self.invited.append({m.metadata.dst_node_id for m in kept})
        return super().push_messages(kept)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Levels, Levels]]:
    """What `NoiseFolder.add` was given and what it gave back, call by call."""
    seen: list[tuple[Levels, Levels]] = []
    real = NoiseFolder.add

    def add(self: NoiseFolder, total: Levels, devices: Collection[str]) -> Levels:
        noised = real(self, total, devices)
        seen.append((total, noised))
        return noised

    monkeypatch.setattr(NoiseFolder, "add", add)
    return seen


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[Levels]:
    """What devices put under masks."""
    seen: list[Levels] = []
    real = MaskedRound.mask

    def mask(self: MaskedRound, given: Levels) -> bytes:
        seen.append(given)
        return real(self, given)

    monkeypatch.setattr(MaskedRound, "mask", mask)
    return seen


def settings(**changed: object) -> RunSettings:
    privacy = {"noise_multiplier": 0.0, "clip_rate": 0.0, "plan": PLAN}
    run = {
        "rounds": 3,
        "devices": 3,
        "quorum": 2,
        "deadline_seconds": 30.0,
        "wait_seconds": 0.0,
        "local": LOCAL,
    }
    privacy |= {name: changed.pop(name) for name in list(changed) if name in Privacy.__dataclass_fields__}
    privacy = {"trust_region": 0.0, **privacy}  # the encoder is to move by exactly what the sums say
    return RunSettings(privacy=Privacy(**privacy), **{**run, **changed})  # type: ignore[arg-type]


def run(home: Path, fleet: Fleet, how: RunSettings) -> Checkpoint:
    return federate(grid_devices(fleet), ServerFolder(home), how, average=average, patience=QUICK)


def replayed(home: Path, how: RunSettings, totals: Iterable[Levels]) -> list[Levels]:
    """The noised sums that the mechanism makes of these, by the seed in the folder, from its first step
    on."""
    seed, plan, state = (home / "noise" / "seed").read_bytes(), masks_and_plan(how)[1], NoiseState()
    found = []
    for total in totals:
        noised, state = add_noise(plan, state, total, [f"sum {state.step}"], seed)
        found.append(noised)
    return found


@pytest.mark.parametrize("shares", [0.0, 1.0], ids=["no shares", "shares"])
def test_a_run_gives_the_plain_sums_plus_exactly_the_mechanisms_noise(
    tmp_path: Path, fleet: Fleet, sums: list[tuple[Levels, Levels]], levels: list[Levels], shares: float
) -> None:
    how = settings(noise_multiplier=shares)
    state = run(tmp_path, fleet, how)
    masks, _ = masks_and_plan(how)
    assert len(sums) == 3
    assert len(levels) == 9
    wanted = replayed(tmp_path, how, [total for total, _ in sums])
    asked = [message_in(wire) for wire in fleet.down]
    (rotation,) = {decode_invitation(wire).rotation for wire in asked if kind_of(wire) == INVITATION}
    moved = np.zeros(load_subspace().count)
    for number, (total, noised) in enumerate(sums):
        plain = np.sum(levels[3 * number : 3 * number + 3], axis=0)
        np.testing.assert_array_equal(total, plain)
        np.testing.assert_array_equal(noised, wanted[number])
        assert (noised != total).mean() > 0.9
        inside = centred(to_ring(noised, masks.ring_bits), masks.ring_bits)
        moved += from_levels(inside, 3, step=masks.step, clip=0.15, seed=rotation)[0]
    shipped, change = load_encoder(), load_subspace().change(moved.astype(np.float32))
    for name in SHARED_SHAPES:
        found = state.encoder.tensors[name] - shipped.tensors[name]
        assert np.linalg.norm(found - change[name]) <= 1e-5 * np.linalg.norm(change[name]) + 1e-6
    assert [line["noise_step"] for line in read_metrics(tmp_path / "rounds.jsonl")] == [1, 2, 3]


def test_resting_devices_are_not_invited_not_even_after_a_restart(tmp_path: Path, fleet: Fleet) -> None:
    for rounds in (1, 2, 3):  # a server that is started anew for each round
        run(tmp_path, fleet, settings(rounds=rounds))
    one, two, three = fleet.invited
    assert len(one) == len(two) == 3
    assert not one & two
    assert one == three
    spent = read_spent(tmp_path / "privacy.jsonl")
    assert spent.plans == (PlanSpent(3, 3),)
    assert spent.epsilon == pytest.approx(epsilon_by_pld([(Cost(2.0), 1)], 1e-5))


def test_a_device_that_comes_back_under_another_number_rests_by_itself(tmp_path: Path, fleet: Fleet) -> None:
    """The server cannot know it: number and pseudonym are others.

    So it invites it, and the device keeps out.
    """
    fleet.connect([0, 1, 2])
    run(tmp_path, fleet, settings(rounds=1, devices=6))
    fleet.connect(range(6), first=FIRST_NODE + 50)
    done = run(tmp_path, fleet, settings(rounds=2, devices=6))
    assert [len(asked) for asked in fleet.invited] == [3, 6]
    assert done.metrics["refused"] == {"empty": 3}
    assert done.metrics["used"] == 3


def test_too_few_that_do_not_rest_end_the_run_in_one_line(tmp_path: Path, fleet: Fleet) -> None:
    fleet.connect([0, 1, 2])
    with pytest.raises(FederationError, match=r"0 of at least 2 .* and 3 more rest") as caught:
        run(tmp_path, fleet, settings())
    assert "\n" not in str(caught.value)


def test_a_killed_run_goes_on_with_the_next_step_and_the_plans_end_ends_it(
    tmp_path: Path, fleet: Fleet, sums: list[tuple[Levels, Levels]]
) -> None:
    how = settings()

    with killed_in_round_2():
        run(tmp_path, fleet, how)
    assert len(sums) == 2
    with pytest.raises(
        PrivacyBudgetError, match="all 3 steps of the noise plan are done, so the run ends"
    ) as caught:
        run(tmp_path, fleet, how)
    assert "\n" not in str(caught.value)
    # Round 2 was done twice, as steps 2 and 3: no noise was used twice, and none was left out.
    wanted = replayed(tmp_path, how, [total for total, _ in sums])
    for (_, noised), expected in zip(sums, wanted, strict=True):
        np.testing.assert_array_equal(noised, expected)
    assert not fleet.invited[1] & fleet.invited[2]  # those of the step that was lost rest all the same
    assert [line["round"] for line in read_metrics(tmp_path / "rounds.jsonl")] == [1, 2]
    assert read_note(tmp_path / "ended.json")["reason"] == str(caught.value)
    assert read_spent(tmp_path / "privacy.jsonl").plans == (PlanSpent(3, 3),)


def test_a_round_that_fails_takes_no_step(
    tmp_path: Path, fleet: Fleet, sums: list[tuple[Levels, Levels]]
) -> None:
    fleet._quiet = dict.fromkeys(range(6), 7)  # nobody comes back with a masked vector
    done = run(tmp_path, fleet, settings(rounds=1, deadline_seconds=0.05))
    assert done.metrics["used"] == 0
    assert not sums
    assert read_spent(tmp_path / "privacy.jsonl").plans == ()
