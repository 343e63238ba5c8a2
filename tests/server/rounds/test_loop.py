"""The round loop against devices that answer late, never, twice, wrongly, or not enough."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from server_fakes import SHIPPED, Clock, FakeDevices, change, honest, settings

from palate.server.aggregation import Reply
from palate.server.checkpoints import Checkpoint
from palate.server.rounds.exchange import Now
from palate.server.rounds.loop import choose_cohort, derive_seed, run_rounds
from palate.server.strategy import average
from palate.shared.encoder import encoder_hash, flatten
from palate.shared.errors import FederationError
from palate.shared.update import EncoderUpdate
from palate.shared.wire import CHECKSUM_BYTES, Task, add_checksum, encode_update


def rounds(who: FakeDevices, /, told: list[Now] | None = None, **changed: object) -> list[Checkpoint]:
    start = Checkpoint(0, SHIPPED, settings(**changed))
    tell = told.append if told is not None else (lambda now: None)
    return list(run_rounds(who, start, average=average, tell=tell, patience=Clock().patience()))


def scaled(factor: float):
    """A device whose change is so many times the honest one."""

    def answer(task: Task, device: int) -> bytes:
        one = change(task, device)
        return encode_update(
            EncoderUpdate(one.base, one.round, {n: np.float32(factor) * t for n, t in one.tensors.items()})
        )

    return answer


def nan(task: Task, device: int) -> bytes:
    wire = bytearray(honest(task, device)[:-CHECKSUM_BYTES])
    wire[-4:] = np.float32("nan").tobytes()
    return add_checksum(bytes(wire))


def of_another_round(task: Task, device: int) -> bytes:
    return honest(dataclasses.replace(task, round=task.round + 1), device)


def never(task: Task, device: int) -> None:
    return None


def test_three_honest_devices_make_a_round() -> None:
    (only,) = rounds(devices := FakeDevices(), rounds=1)
    task = devices.tasks[0]
    mean = np.mean([flatten(change(task, d).tensors).astype(np.float64) for d in (101, 102, 103)], axis=0)
    assert np.array_equal(flatten(only.encoder.shared()), flatten(SHIPPED.shared()) + mean.astype(np.float32))
    assert only.metrics["used"] == 3
    assert only.metrics["refused"] == {}
    assert only.updates == 3


def test_each_round_trains_the_encoder_of_the_round_before() -> None:
    states = rounds(devices := FakeDevices(), rounds=3)
    bases = [encoder_hash(task.encoder(SHIPPED)) for task in devices.tasks]
    assert bases == [encoder_hash(SHIPPED), *(encoder_hash(state.encoder) for state in states[:2])]
    assert [task.round for task in devices.tasks] == [1, 2, 3]
    assert len({task.seed for task in devices.tasks}) == 3


def test_the_deadline_travels_with_the_question() -> None:
    rounds(devices := FakeDevices(), rounds=1, deadline_seconds=7.0)
    assert devices.seconds == [7.0]


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (nan, "finite"),
        (scaled(1000.0), "norm"),
        (of_another_round, "round"),
        (never, "late"),
        (lambda task, device: b"", "empty"),
        (lambda task, device: b"PALATE" * 10**6, "kind"),
        (lambda task, device: honest(task, device)[:1000], "size"),
        (lambda task, device: b"\x00" * 400_000, "magic"),
        (lambda task, device: Reply(f"{task.round}-{device}", None, "error"), "error"),
        (lambda task, device: Reply(f"{task.round}-{device}", None, "gone"), "gone"),
        (lambda task, device: Reply(f"{task.round}-{device}", None), "content"),
    ],
)
def test_a_bad_reply_costs_that_reply_and_is_counted_by_reason(odd: object, reason: str) -> None:
    states = rounds(FakeDevices(odd={102: odd}), rounds=2)  # type: ignore[dict-item]
    honest_pair = rounds(FakeDevices(odd={102: lambda task, device: b""}), rounds=2)
    for state, pair in zip(states, honest_pair, strict=True):
        assert state.metrics["refused"] == {reason: 1}
        assert state.metrics["used"] == 2
        assert encoder_hash(state.encoder) == encoder_hash(pair.encoder)


def test_a_late_reply_is_not_waited_for_after_the_deadline() -> None:
    (only,) = rounds(FakeDevices(delays={102: 1000}), rounds=1, deadline_seconds=10.0)
    assert only.metrics["refused"] == {"late": 1}
    assert 10.0 <= only.metrics["seconds"] <= 10.5


def test_a_slow_reply_within_the_deadline_counts() -> None:
    (only,) = rounds(FakeDevices(delays={102: 6}), rounds=1, deadline_seconds=10.0)
    assert only.metrics["used"] == 3
    assert only.metrics["seconds"] == pytest.approx(3.0)


def test_the_reply_of_a_round_that_is_over_is_counted_and_ignored() -> None:
    def with_a_stray(task: Task, device: int) -> Reply | bytes:
        return Reply("0-99", honest(task, device)) if task.round == 1 else honest(task, device)

    states = rounds(FakeDevices(odd={102: with_a_stray}), rounds=2)
    assert states[0].metrics["refused"] == {"late": 1, "unasked": 1}
    assert states[1].metrics["refused"] == {}


def test_nobody_is_heard_louder_than_the_longest_change_allowed() -> None:
    (only,) = rounds(FakeDevices(count=3, odd={102: scaled(7.9)}), rounds=1)
    assert only.metrics["used"] == 3
    assert only.metrics["change_norm"] <= (25 + 2 * 3.2) / 3


def test_over_sampling_ends_the_round_at_the_wanted_number() -> None:
    devices = FakeDevices(count=5, delays={103: 4, 104: 1000})
    (only,) = rounds(devices, rounds=1, devices=3, quorum=3, over_sampling=5 / 3)
    assert len(devices.asked[0]) == 5
    assert only.metrics["used"] == 3
    assert only.metrics["refused"] == {"surplus": 2}
    assert only.metrics["seconds"] == 0


def test_without_a_quorum_the_encoder_stays_and_the_next_round_is_tried() -> None:
    def not_in_round_one(task: Task, device: int) -> bytes:
        return b"" if task.round == 1 else honest(task, device)

    states = rounds(FakeDevices(odd=dict.fromkeys((101, 102), not_in_round_one)), rounds=2)
    assert encoder_hash(states[0].encoder) == encoder_hash(SHIPPED)
    assert (states[0].missed, states[0].metrics["counted"], states[0].metrics["used"]) == (1, False, 0)
    assert (states[1].missed, states[1].metrics["used"]) == (0, 3)


def test_rounds_without_a_quorum_end_the_run_in_one_clear_line() -> None:
    seen: list[Checkpoint] = []
    start = Checkpoint(0, SHIPPED, settings(rounds=10, missed_rounds=2))
    devices = FakeDevices(odd=dict.fromkeys((101, 102), nan))
    states = run_rounds(devices, start, average=average, patience=Clock().patience())
    with pytest.raises(FederationError, match=r"2 rounds in a row .* \(2 finite\)"):
        seen.extend(states)
    assert len(seen) == 2
    again = run_rounds(FakeDevices(), seen[-1], average=average, patience=Clock().patience())
    assert next(again).missed == 0


def test_too_few_devices_are_waited_for_and_then_the_run_ends_in_one_line() -> None:
    clock, told = Clock(), []
    start = Checkpoint(0, SHIPPED, settings(wait_seconds=20.0))
    with pytest.raises(FederationError, match="1 of at least 2 devices were connected after 20 s") as caught:
        list(
            run_rounds(
                FakeDevices(count=1), start, average=average, tell=told.append, patience=clock.patience()
            )
        )
    assert "\n" not in str(caught.value)
    assert 20.0 <= clock.now <= 20.5
    assert told == [Now("waiting", 1, 3, 1, 3)]


def test_devices_that_come_while_it_waits_are_enough() -> None:
    class Slowly(FakeDevices):
        def connected(self) -> range:
            self.count = min(3, self.count + 1)
            return range(101, 101 + self.count)

    (only,) = rounds(Slowly(count=0), rounds=1)
    assert only.metrics["used"] == 3


def test_with_fewer_than_wanted_but_a_quorum_it_goes_on_after_the_wait() -> None:
    (only,) = rounds(FakeDevices(count=2), rounds=1)
    assert (only.metrics["asked"], only.metrics["used"]) == (2, 2)


def test_a_device_that_leaves_later_does_not_hold_up_the_others() -> None:
    class Leaving(FakeDevices):
        def connected(self) -> range:
            return range(101, 104 if not self.tasks else 103)

    clock = Clock()
    start = Checkpoint(0, SHIPPED, settings(rounds=3))
    states = list(run_rounds(Leaving(), start, average=average, patience=clock.patience()))
    assert [state.metrics["used"] for state in states] == [3, 2, 2]
    assert clock.now == 0


def test_a_device_that_cannot_be_reached_is_counted() -> None:
    class Deaf(FakeDevices):
        def ask(self, *args: object) -> dict[str, int]:  # type: ignore[override]
            first, *others = super().ask(*args).items()  # type: ignore[arg-type]
            del self._waiting[first[0]]
            return dict(others)

    (only,) = rounds(Deaf(), rounds=1)
    assert only.metrics["used"] == 2
    assert only.metrics["refused"] == {"unreachable": 1}


def test_the_same_updates_give_the_same_bits_in_whatever_order_they_come() -> None:
    one = rounds(FakeDevices(), rounds=2)[-1]
    two = rounds(FakeDevices(backwards=True), rounds=2)[-1]
    assert encoder_hash(one.encoder) == encoder_hash(two.encoder)


def test_a_cohort_depends_on_seed_and_round_and_on_nothing_else() -> None:
    everyone = list(range(1, 101))
    assert choose_cohort(everyone, 10, 1, 5) == choose_cohort(everyone[::-1], 10, 1, 5)
    cohorts = [tuple(choose_cohort(everyone, 10, 1, number)) for number in range(1, 30)]
    assert len(set(cohorts)) == len(cohorts)
    assert all(len(set(cohort)) == 10 for cohort in cohorts)
    assert sorted(choose_cohort([3, 1, 2], 5, 1, 1)) == [1, 2, 3]
    assert choose_cohort(range(1, 11), 3, 1, 1) == [5, 7, 4]  # the same in every version


def test_every_device_is_asked_about_as_often() -> None:
    counts = np.zeros(20)
    for number in range(1, 2001):
        counts[choose_cohort(range(20), 5, 7, number)] += 1
    assert counts.min() > 430  # 500 expected, standard deviation 19
    assert counts.max() < 570


def test_seeds_of_rounds_differ_and_stay_what_they_are() -> None:
    assert len({derive_seed(seed, number) for seed in range(20) for number in range(1, 50)}) == 20 * 49
    assert derive_seed(1, 1) == 13109433476907096424
    assert 0 <= derive_seed(2**63 - 1, 2**32 - 1) < 2**64


def test_an_honest_round_after_a_mean_one_is_the_round_of_two_honest_devices() -> None:
    states = rounds(FakeDevices(odd={101: nan}), rounds=1)
    start = replace(states[0], settings=settings(rounds=2))
    (after,) = run_rounds(FakeDevices(), start, average=average, patience=Clock().patience())
    assert after.metrics["used"] == 3
