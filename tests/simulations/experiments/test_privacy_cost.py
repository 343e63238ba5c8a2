"""The experiment about privacy.

What it refuses, that it samples and accounts as it says, and that it goes on where it was.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palate.client.federation.local_training import Labels
from palate.server.noise_plan.correlated import _inverse_column
from palate.server.secure_sum.privacy import PlanSettings, Privacy, planned_masks
from palate.server.secure_sum.sampling import poisson_cohort
from palate.shared.accounting import Budget, Cost, calibrate, epsilon_by_pld
from palate.shared.coding import encode_model, finest_step, sensitivity_of
from palate.shared.encoder import (
    SHARED_SHAPES,
    EncoderWeights,
    load_encoder,
)
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.secure_sum.masks import MOST_DEVICES
from palate.shared.subspace import Subspace, subspace_of
from palate.shared.wire import TASK_BYTES, UPDATE_BYTES
from palate.simulations.crowd.population import Pool, pool_truth
from palate.simulations.experiments import privacy_cost
from palate.simulations.experiments.privacy_cost import (
    PrivacyExperiment,
    read_privacy_experiment,
    run_privacy_experiment,
)
from palate.simulations.experiments.privacy_cost_report import (
    bytes_of,
    mask_overhead,
    plot,
    rows_of,
    run_name,
    table_of,
)
from palate.simulations.experiments.private_rounds import (
    SURVIVORS,
    Coded,
    FewBits,
    Planned,
    Private,
    coins,
    learn_in_bits,
    learn_planned,
    learn_privately,
)
from tests.made_up import make_labels

SHIPPED = Path(privacy_cost.__file__).with_name("privacy.toml")
PRIVATE = Private(
    rounds=2,
    sample_rate=0.5,
    rank=4,
    clip=0.2,
    clip_rate=0.0,
    ring_bits=16,
    model_bits=8,
    alignment=0.5,
    learning_rate=9.0,
    beta_1=0.8,
    tau=0.3,
)

PLANNED = Planned(epsilons=(2.0,), rounds=4, separation=2, clip=0.2, learning_rate=1.0, beta_1=0.0)


def crowd(count: int) -> list[Labels]:
    return [make_labels(8, seed) for seed in range(count)]


def directions() -> Subspace:
    return subspace_of(load_encoder(), np.concatenate([one.features for one in crowd(20)]), 4)


def moved(before: EncoderWeights, after: EncoderWeights) -> float:
    return math.sqrt(sum(float(np.square(after.tensors[n] - before.tensors[n]).sum()) for n in SHARED_SHAPES))


# --- what is asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "title = 'x'", "people = [", "\0"])
def test_a_file_that_is_no_such_experiment_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(FileFormatError) as caught:
        read_privacy_experiment(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_one_that_ships() -> None:
    with pytest.raises(FileFormatError, match="privacy"):
        read_privacy_experiment("nowhere.toml")


@pytest.mark.parametrize("line", ["rank = 64", "cohort = 200", "people = 10000"])
def test_a_missing_and_an_unknown_key_are_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.read_text().replace(line, "", 1))
    with pytest.raises(FileFormatError, match=line.split()[0]):
        read_privacy_experiment(str(path))
    path.write_text(SHIPPED.read_text().replace(line, f"{line}\nfancy = 1", 1))
    with pytest.raises(FileFormatError, match="fancy"):
        read_privacy_experiment(str(path))


def test_settings_outside_their_ranges_are_refused() -> None:
    shipped = read_privacy_experiment("privacy")
    for bad in (
        {"release": "none"},
        {"seeds": ()},
        {"epsilons": (0.0,)},
        {"people": 100},
        {"private": replace(shipped.private, sample_rate=0.0)},
        {
            "private": replace(shipped.private, sample_rate=0.5)
        },  # a sum of 5,000 is more than one sum may hold
    ):
        with pytest.raises(OptionError):
            replace(shipped, **bad)  # type: ignore[arg-type]


def test_the_shipped_experiment_has_cohorts_that_one_sum_can_hold() -> None:
    shipped = read_privacy_experiment("privacy")
    expected = shipped.people * shipped.private.sample_rate
    assert expected + 3 * math.sqrt(expected) <= MOST_DEVICES
    assert expected - 3 * math.sqrt(expected) >= SURVIVORS * expected
    assert shipped.delta == pytest.approx(10_000**-1.1)


# --- what is run --------------------------------------------------------------------------------------------


def test_the_noise_of_the_fewest_survivors_is_what_was_accounted_for() -> None:
    multiplier = calibrate(Budget(2.0, 1e-4), 20, 0.09)
    coded = Coded(16, 8, 0.2, 0.0, least=810, most=1000, multiplier=multiplier, subspace=directions())
    masks = coded.masks(0.2)
    summed = masks.noise * math.sqrt(810)
    found = summed / sensitivity_of(0.2, masks.step, coded.count)
    assert multiplier <= found <= multiplier * 1.001  # a device's noise is rounded up
    assert epsilon_by_pld([(Cost(multiplier, 0.09), 20)], 1e-4) <= 2.0


def test_a_private_run_keeps_to_its_multiplier_and_moves_the_last_layer_alone() -> None:
    release = load_encoder()
    after, kept_to = learn_privately(release, crowd(40), PRIVATE, directions(), 1.5, 3)
    assert kept_to == pytest.approx(1.5, rel=1e-6)
    changed = {n for n in SHARED_SHAPES if (after.tensors[n] != release.tensors[n]).any()}
    assert changed == {"picture.taste.weight", "picture.taste.bias"}


def test_noise_does_to_the_encoder_what_its_size_says() -> None:
    """With the same people, seed and cohorts.

    What noise adds, in the subspace's coordinates, has the size of noise.
    """
    release, people, subspace = load_encoder(), crowd(40), directions()
    once = replace(PRIVATE, rounds=1, beta_1=0.0, tau=1.0, learning_rate=1.0)
    sizes = {seed: len(poisson_cohort(range(40), 0.5, coins(seed, 1))) for seed in range(20)}
    seed, survivors = next((s, n) for s, n in sizes.items() if 18 <= n <= 23)  # else the round does not count
    quiet, _ = learn_privately(release, people, once, subspace, 0.0, seed)
    noisy, _ = learn_privately(release, people, once, subspace, 2.0, seed)
    added = np.concatenate(
        [
            noisy.tensors["picture.taste.weight"] - quiet.tensors["picture.taste.weight"],
            (noisy.tensors["picture.taste.bias"] - quiet.tensors["picture.taste.bias"])[:, None],
        ],
        axis=1,
    )
    coordinates = added @ np.linalg.pinv(subspace.directions.T.astype(np.float64))
    least = math.floor(SURVIVORS * 20)
    step, _ = finest_step(
        16, math.ceil(20 / 0.9), clip=0.2, noise_multiplier=2 * math.sqrt(23 / least), count=subspace.count
    )
    # Each survivor adds the share that is reckoned for the fewest.
    wanted = 2 * sensitivity_of(0.2, step, subspace.count) * step * math.sqrt(survivors / least) / survivors
    assert coordinates.std() == pytest.approx(wanted, rel=0.15)


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    release, people, subspace = load_encoder(), crowd(40), directions()
    one, _ = learn_privately(release, people, PRIVATE, subspace, 1.0, 3)
    again, _ = learn_privately(release, people, PRIVATE, subspace, 1.0, 3)
    other, _ = learn_privately(release, people, PRIVATE, subspace, 1.0, 4)
    assert moved(one, again) == 0
    assert moved(one, other) > 0


def test_a_plan_asks_everybody_in_turn_and_its_noise_takes_itself_back() -> None:
    """What noise adds to the encoder has the size that the plan says of its sums, less than independent
    noise would."""
    release, people, subspace = load_encoder(), crowd(40), directions()
    like, multiplier = replace(PRIVATE, tau=1.0), 3.0

    def learned(noise: float, rounds: int) -> np.ndarray:
        plan = replace(PLANNED, rounds=rounds, separation=2)
        after, kept_to = learn_planned(release, people, plan, like, subspace, noise, 5)
        assert kept_to == noise
        weights = [after.tensors[f"picture.taste.{kind}"] for kind in ("weight", "bias")]
        both = np.concatenate([weights[0], weights[1][:, None]], axis=1)
        return both @ np.linalg.pinv(subspace.directions.T.astype(np.float64))

    added = learned(multiplier, 8) - learned(0.01, 8)
    privacy_ = Privacy(clip=0.2, clip_rate=0.0, noise_multiplier=0.0, plan=PlanSettings(8, 2, multiplier))
    masks, plan = planned_masks(privacy_, least=20, most=20, count=subspace.count)
    each = plan.sigma * np.cumsum(
        _inverse_column(plan)
    )  # deviation of the parts of the eighth prefix sum, in levels
    wanted = float(np.linalg.norm(each)) * masks.step / 20
    assert added.std() == pytest.approx(wanted, rel=0.15)
    alone = replace(plan, bands=1)
    assert wanted < 0.8 * alone.sigma * math.sqrt(8) * masks.step / 20


@pytest.mark.parametrize("bits", [8, 6])
def test_few_bits_change_a_run_little(bits: int) -> None:
    release, people = load_encoder(), crowd(12)
    plan = FewBits(
        12,
        rounds=2,
        cohort=6,
        alignment=1.0,
        learning_rate=1e-3,
        model_bits=bits,
        agreement=0.8,
        clip=20.0,
        clip_rate=0.0,
    )
    exact = learn_in_bits(release, people, plan, 32, 1)
    coarse = learn_in_bits(release, people, plan, bits, 1)
    assert 0 < moved(exact, coarse) < 1.5 * moved(release, exact)


# --- what is reported ---------------------------------------------------------------------------------------


def test_the_bytes_are_those_of_the_wire() -> None:
    over = mask_overhead(5)
    assert 500 < over["up"] < 3000
    assert over["down"] > 5 * 160  # five adverts of two keys, an identity and a signature
    experiment = {
        "people": 50,
        "private": {"rank": 64, "ring_bits": 16, "model_bits": 8, "sample_rate": 0.1},
        "plan": {"separation": 10},
        "few_bits": {"model_bits": 6, "cohort": 5},
    }
    results = {"experiment": experiment, "overhead": {"5": over}}
    assert bytes_of(results, "open", 0) == (TASK_BYTES, UPDATE_BYTES)
    down, up = bytes_of(results, "bits", 6)
    assert (round(down - over["down"]), round(up - over["up"])) == (74_093, math.ceil(96_641 * 6 / 8))
    assert bytes_of(results, "plan", 2.0) == bytes_of(results, "epsilon", 2.0)
    down, up = bytes_of(results, "epsilon", 2.0)
    assert round(down - over["down"]) == 65 + 4 * 387 + 64 * 257
    assert round(up - over["up"]) == 2 * 4097


def test_what_a_private_run_sends_down_is_as_short_as_reported() -> None:
    release = load_encoder()
    after, _ = learn_privately(release, crowd(40), PRIVATE, directions(), 1.0, 3)
    assert moved(release, after) > 0
    assert len(encode_model(after, release, 8)) == 65 + 4 * 387 + 64 * 257


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> PrivacyExperiment:
    """An experiment whose people and pictures take no time."""
    shipped = read_privacy_experiment("privacy")

    features = np.concatenate([one.features for one in crowd(20)])
    pool = Pool(tuple(pool_truth(number) for number in range(len(features))), features)
    monkeypatch.setattr(privacy_cost, "draw_pool", lambda *_, **__: pool)
    monkeypatch.setattr(privacy_cost, "make_people", lambda count, *_, **__: list(range(count)))
    monkeypatch.setattr(privacy_cost, "give_all_labels", lambda people, *_: crowd(len(people)))
    monkeypatch.setattr(privacy_cost, "meet_stranger", lambda person, *_: person)
    monkeypatch.setattr(privacy_cost, "understand", lambda _, who, **__: np.full(len(who), 0.6))
    return replace(
        shipped,
        people=40,
        strangers=3,
        seeds=(1, 2),
        epsilons=(2.0,),
        bits=(6,),
        private=PRIVATE,
        plan=PLANNED,
        open=replace(shipped.open, rounds=2, cohort=6),
        few_bits=replace(shipped.few_bits, people=20, rounds=2, cohort=6, agreement=1.0),
    )


def test_an_experiment_that_was_ended_goes_on_where_it_was(small: PrivacyExperiment, tmp_path: Path) -> None:
    run_privacy_experiment(replace(small, seeds=(1,)), tmp_path, tmp_path, lambda _: None)
    first = json.loads((tmp_path / "results.json").read_text())
    first["runs"][run_name("epsilon", 2.0, 1)]["accuracy"] = 0.55  # so that it is known again
    (tmp_path / "results.json").write_text(json.dumps(first))
    told: list[str] = []
    results = run_privacy_experiment(small, tmp_path, tmp_path, told.append)
    assert results["runs"][run_name("epsilon", 2.0, 1)]["accuracy"] == 0.55
    assert not any(", seed 1:" in line for line in told)
    assert sum(", seed 2:" in line for line in told) == 7
    other = replace(small, private=replace(small.private, rank=3))
    again = run_privacy_experiment(replace(other, seeds=(1,)), tmp_path, tmp_path, lambda _: None)
    assert again["runs"][run_name("epsilon", 2.0, 1)]["accuracy"] == 0.6


def test_the_report_sets_each_run_against_its_baseline(small: PrivacyExperiment, tmp_path: Path) -> None:
    results = run_privacy_experiment(small, tmp_path, tmp_path, lambda _: None)
    for seed, accuracy in ((1, 0.50), (2, 0.56)):
        results["runs"][run_name("epsilon", 2.0, seed)]["accuracy"] = accuracy
        results["runs"][run_name("bits", 32, seed)]["accuracy"] = 0.7
    rows = {(row["kind"], row["value"]): row for row in rows_of(results)}
    private = rows["epsilon", 2.0]
    assert private["difference"] == pytest.approx(-0.07)
    assert private["half_width"] == pytest.approx(
        12.706 * 0.03, rel=1e-3
    )  # Student's t, one degree of freedom
    assert private["epsilon"] <= 2.0 < private["epsilon_by_rdp"] * 1.01
    assert rows["bits", 6.0]["difference"] == pytest.approx(-0.1)
    planned = rows["plan", 2.0]
    assert planned["epsilon"] <= 2.0 < planned["epsilon_by_rdp"] * 1.01
    assert planned["noise_multiplier"] > private["noise_multiplier"]  # nothing is gained by sampling
    assert rows["open", 0]["times_fewer"] == 1.0
    assert rows["bits", 6.0]["times_fewer"] > 4
    assert len(table_of(results).rows) == len(rows)
    # The same rounds without noise, where they came out better than the open run, are what noise must be held
    # against.
    for seed in (1, 2):
        results["runs"][run_name("epsilon", math.inf, seed)]["accuracy"] = 0.8
    rows = {(row["kind"], row["value"]): row for row in rows_of(results)}
    assert rows["epsilon", 2.0]["difference"] == pytest.approx(-0.27)
    assert rows["epsilon", None]["difference"] == pytest.approx(0.2)
    assert plot(results, tmp_path / "plot.png").stat().st_size > 10_000
