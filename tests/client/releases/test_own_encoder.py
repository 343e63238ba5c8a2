"""Which encoder the evaluator uses: the owner's labels decide, the owner hears of it, and the server
cannot."""

import ast
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from palate.client.device import Device
from palate.client.eye import backbone
from palate.client.federation.declined import Declined
from palate.client.federation.masked_answers import MaskedAnswers
from palate.client.federation.member import Member
from palate.client.federation.outbox import read_outbox
from palate.client.privacy.budget import OwnBudget, write_budget
from palate.client.releases import own_encoder, trial
from palate.client.releases.accepted import adopt, federation_encoder, pin_key, read_standing
from palate.client.releases.own_encoder import decide, settle_encoder
from palate.client.releases.stored import CHOICE, read_choice
from palate.client.releases.trial import Trial, chance_of, held_out_losses, student_tail, try_encoder
from palate.client.taste.fitting import fit_evaluator_to_vault
from palate.client.vault.store import MemoryStore
from palate.server.secure_sum.unmasking import MaskedSum
from palate.shared.coding import encode_model
from palate.shared.encoder import EncoderWeights, encoder_hash, encoder_to_bytes, load_encoder
from palate.shared.errors import OptionError
from palate.shared.reasons import DeclineReason
from palate.shared.releases.message import ReleaseLog, SignedRelease, encode_release
from palate.shared.secure_sum.messages import Invitation, encode_invitation
from palate.shared.update import LocalSettings
from palate.shared.wire import Task, encode_task, fixed_hash
from palate.simulations.crowd.people import make_people
from palate.simulations.crowd.population import PEOPLE_SEED, draw_pool, give_labels
from tests.client.federation.test_masked_answers import (
    COUNT,
    MASKS,
    PASSPHRASE,
    SERVER,
    WITHIN,
    Person,
    two_people,
)
from tests.client.federation.test_member import put_label
from tests.client.releases.test_accepted import BEGUN, KEY, TEXT, card_of, make
from tests.signed import signed

CLIENT = Path(__file__).resolve().parents[3] / "client"
PERSON = 0
Sides = tuple[np.ndarray, np.ndarray]
NOW = int(datetime.now(UTC).timestamp())
FIRST = make()
FIRST = SignedRelease(FIRST.log.with_statement(NOW, KEY), FIRST.encoder)


def broken(number: int = 1) -> EncoderWeights:
    """Release 0 with noise five times as long as itself in it: what a federation of two would release."""
    rng, shared = np.random.default_rng(3), load_encoder().shared()
    count = sum(tensor.size for tensor in shared.values())
    noisy = {
        name: (tensor + rng.standard_normal(tensor.shape) * 250 / np.sqrt(count)).astype(np.float32)
        for name, tensor in shared.items()
    }
    return load_encoder().with_shared(noisy, number)


def released(encoder: EncoderWeights, after: ReleaseLog = BEGUN) -> SignedRelease:
    """A signed release of any encoder."""
    log = after.with_release(card_of(after, encoder), NOW, KEY)
    return SignedRelease(log, encoder_to_bytes(encoder))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """Forty verdicts of a virtual person on drawn pictures: the features of those liked and disliked."""
    pool = draw_pool(120, tmp_path_factory.mktemp("pool"))
    given = give_labels(make_people(PERSON + 1, PEOPLE_SEED)[PERSON], pool, 40, random.Random(5))
    return given.features[given.liked], given.features[~given.liked]


@pytest.fixture
def store() -> MemoryStore:
    empty = MemoryStore()
    pin_key(empty, TEXT)
    return empty


def settle(store: MemoryStore, labels: Sides, lines: list[str] | None = None) -> EncoderWeights:
    return settle_encoder(store, *labels, {}, (lambda line: None) if lines is None else lines.append)


# --- the rule -----------------------------------------------------------------------------------------------


def test_the_tail_of_students_t_is_that_of_the_tables() -> None:
    for t, degrees, tail in ((2.0, 10, 0.036694), (2.4, 1, 0.125666), (3.7, 7, 0.003827), (0.0, 5, 0.5)):
        assert student_tail(t, degrees) == pytest.approx(tail, abs=1e-6)
        assert student_tail(-t, degrees) == pytest.approx(1 - tail, abs=1e-6)


def test_the_chance_of_a_difference_is_that_of_a_paired_test() -> None:
    # By hand: mean 0.5, standard deviation 0.5774, t = 0.5 / (0.5774 / 2) = 1.732 with 3 degrees of freedom.
    assert chance_of(np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(0.0908, abs=1e-4)
    assert chance_of(np.zeros(9)) == 1.0
    assert chance_of(np.ones(9)) == 0.0
    assert chance_of(-np.ones(9)) == 1.0


def test_no_label_is_foreseen_by_an_evaluator_that_saw_it(
    labels: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    liked, disliked = labels
    seen: list[set[bytes]] = []
    fit, loss = trial.fit_evaluator, trial._loss

    def fitted(encoder: EncoderWeights, up: np.ndarray, down: np.ndarray, **named: object) -> object:
        seen.append({row.tobytes() for row in np.concatenate([up, down])})
        return fit(encoder, up, down, **named)  # type: ignore[arg-type]

    asked: list[bytes] = []

    def judged(evaluator: object, features: np.ndarray, kind: int) -> np.ndarray:
        asked.extend(row.tobytes() for row in features)
        assert not seen[-1] & {row.tobytes() for row in features}
        return loss(evaluator, features, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(trial, "fit_evaluator", fitted)
    monkeypatch.setattr(trial, "_loss", judged)
    assert len(held_out_losses(load_encoder(), liked, disliked, {})) == 40
    assert sorted(asked) == sorted(row.tobytes() for row in np.concatenate([liked, disliked]))


def test_a_broken_encoder_is_left_aside_and_an_equal_one_is_not(labels: Sides) -> None:
    found = try_encoder(load_encoder(), broken(), *labels)
    assert found.keep_old
    assert found.loss_new > found.loss_old
    same = try_encoder(load_encoder(), load_encoder(), *labels)
    assert (same.keep_old, same.chance) == (False, 1.0)
    assert not try_encoder(broken(), load_encoder(), *labels).keep_old


def test_too_few_labels_adopt(labels: Sides) -> None:
    liked, disliked = labels
    assert try_encoder(load_encoder(), broken(), liked[:3], disliked) == Trial(
        3 + len(disliked), 0.0, 0.0, 1.0, False
    )


# --- the choice ---------------------------------------------------------------------------------------------


def test_a_release_that_does_worse_is_left_aside_and_the_owner_hears_it(
    store: MemoryStore, labels: Sides
) -> None:
    adopt(store, released(broken()))
    lines: list[str] = []
    assert encoder_hash(settle(store, labels, lines)) == encoder_hash(load_encoder())
    assert own_encoder.own_encoder(store).release == 0
    assert federation_encoder(store).release == 1
    (line,) = lines
    assert "release 1 does worse for you and is left aside: on your 40 verdicts" in line
    assert "palate release adopt --anyway" in line
    settle(store, labels, lines)
    assert len(lines) == 1  # told once
    standing = read_standing(store)
    assert (standing.release, standing.used) == (1, 0)


def test_a_release_that_does_no_worse_is_used(store: MemoryStore, labels: Sides) -> None:
    adopt(store, FIRST)
    assert own_encoder.own_encoder(store).release == 0  # before it was tried
    lines: list[str] = []
    assert settle(store, labels, lines).release == own_encoder.own_encoder(store).release == 1
    assert "release 1 is in use for you" in lines[0]


def test_the_next_release_is_tried_beside_the_one_that_is_in_use(store: MemoryStore, labels: Sides) -> None:
    adopt(store, FIRST)
    settle(store, labels)
    second = released(broken(2), FIRST.log)
    adopt(store, second)
    assert own_encoder.own_encoder(store).release == 1
    assert settle(store, labels).release == 1
    third = make(second.log, variant=7)
    adopt(store, third)
    choice = read_choice(store)
    assert choice is not None
    assert (choice.before, choice.uses) == (1, "untried")
    assert settle(store, labels).release == 3


def test_other_labels_are_asked_anew_so_that_forgetting_one_is_exact(
    store: MemoryStore, labels: Sides
) -> None:
    liked, disliked = labels
    adopt(store, released(broken()))
    assert settle(store, labels).release == 0
    few = settle(store, (liked[:2], disliked))  # too few of them are left
    assert few.release == 1
    assert settle(store, labels).release == 0
    other = MemoryStore()
    pin_key(other, TEXT)
    adopt(other, released(broken()))
    settle(other, labels)
    assert other.get(CHOICE, "only") == store.get(CHOICE, "only")


def test_the_owner_overrules_and_goes_back(store: MemoryStore, labels: Sides) -> None:
    with pytest.raises(OptionError):
        decide(store, "new")
    adopt(store, released(broken()))
    settle(store, labels)
    decide(store, "new")
    assert settle(store, labels).release == 1
    decide(store, "before")
    liked, disliked = labels
    assert settle(store, (liked[:2], disliked)).release == 0  # whatever the labels say
    adopt(store, make(released(broken()).log, variant=7))
    choice = read_choice(store)
    assert choice is not None
    assert (choice.uses, choice.by) == ("untried", "labels")


def test_the_fit_of_the_evaluator_settles_it(tmp_path: Path, remembered_keys: None) -> None:
    with Device.init(tmp_path / "home", PASSPHRASE) as device:
        put_label(device, 1, True, ("calm",))
        adopt(device.vault, FIRST, key=TEXT)
        lines: list[str] = []
        fit_evaluator_to_vault(
            device.vault, device.comments(), device.profile(), choose_encoder=own_encoder.settle_encoder,
            adapt=False,
            progress=lambda *_: None, notice=lines.append,
        )  # fmt: skip
        assert "too few" in lines[0]
        assert own_encoder.own_encoder(device.vault).release == 1


# --- towards the server -------------------------------------------------------------------------------------


def test_nothing_that_answers_a_server_can_ask_what_the_owner_uses() -> None:
    private = {
        "own_encoder",
        "trial",
        "settle_encoder",
        "encoder_before",
        "try_encoder",
    }  # by file or by name
    askers = set()
    for path in CLIENT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {alias.name for alias in node.names}
                ours = node.module.startswith("palate.client.releases")
                named = {node.module.rpartition(".")[2]} | (names if ours else set())
                if named & private:
                    askers.add(path.relative_to(CLIENT).as_posix())
    assert askers == {"device.py", "releases/own_encoder.py", "commands/releases.py"}
    assert backbone.shipped().release == 0


@pytest.fixture
def people(tmp_path: Path, remembered_keys: None) -> Iterator[list[Person]]:
    """Two devices that accepted release 1, with eight verdicts each."""
    with two_people(tmp_path, KEY, allow_unmasked=True, epsilon=1000.0) as found:
        for one in found:
            write_budget(one.device.vault, OwnBudget(1000.0, unprotected=True))
            pin_key(one.device.vault, TEXT)
        yield found


def refuse_in_private(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a device's labels say that the newest release does worse."""
    with monkeypatch.context() as patch:
        patch.setattr(trial, "try_encoder", lambda *_, **__: Trial(8, 0.5, 0.9, 0.001, True))
        device.evaluator(adapt=False)


def invite(round_: int) -> bytes:
    """An invitation to go on from release 1."""
    own = load_encoder().with_shared(
        {n: t * np.float32(1 - 1 / 64) for n, t in load_encoder().shared().items()}, 1
    )
    return encode_invitation(
        Invitation(round_, 1, fixed_hash(own), 7, LocalSettings(), MASKS, encode_model(own, own, 8), WITHIN)
    )


def masked_round(people: list[Person], round_: int) -> list[tuple[int, int]]:
    """A whole masked round; return kind and size of each answer of the first device."""
    said: list[tuple[int, int]] = []

    def all_answer(wires: dict[int, bytes]) -> dict[int, bytes]:
        answers = {place: people[place].answer(wire) for place, wire in wires.items()}
        said.append((answers[0][6], len(answers[0])))
        return answers

    invitation = invite(round_)
    total = MaskedSum(invitation, MASKS, COUNT + 1)
    roster, _ = total.adverts(all_answer(dict.fromkeys(range(2), invitation)))
    deliveries, _ = total.shares(all_answer(dict.fromkeys(range(2), roster)))
    unmask, _ = total.masked(all_answer(deliveries))
    _, survivors = total.revealed(all_answer(dict.fromkeys(range(2), unmask)))
    assert survivors == 2
    return said


def test_a_device_that_left_a_release_aside_says_what_every_device_says(
    people: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = encode_release(FIRST)
    assert [one.answer(offered) for one in people] == [b"", b""]
    for one in people:
        one.device.evaluator(adapt=False)
    assert read_standing(people[0].device.vault).used == 1
    before = masked_round(people, 1)
    task = encode_task(
        Task.for_encoder(
            federation_encoder(people[0].device.vault), round=9, settings=LocalSettings(), seed=3
        )
    )
    update = people[0].answer(task)

    decide(people[0].device.vault, "before")
    assert read_standing(people[0].device.vault).used == 0
    assert masked_round(people, 2) == before
    assert people[0].answer(task) == update  # to the bit: what is trained is the federation's encoder
    assert people[0].answer(offered) == b""
    notes = read_outbox(people[0].device.vault)
    assert {note.release for note in notes} == {1}


def test_a_release_that_the_labels_refuse_changes_no_answer(
    people: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    people[0].answer(encode_release(FIRST))
    people[1].answer(encode_release(FIRST))
    untried = masked_round(people, 1)
    refuse_in_private(people[0].device, monkeypatch)
    assert read_standing(people[0].device.vault).used == 0
    assert masked_round(people, 2) == untried
    worse = make(FIRST.log)
    assert [one.answer(encode_release(worse)) for one in people] == [b"", b""]
    assert not [
        line for line in people[0].lines if "worse" in line
    ]  # nothing is tried where messages are answered


def test_with_the_owners_encoder_in_its_place_the_server_would_hear_the_refusal(people: list[Person]) -> None:
    # The positive control: had rounds asked `own_encoder`, the invitation would be declined by those who left
    # the release aside.
    vault = people[0].device.vault
    people[0].answer(encode_release(FIRST))
    decide(vault, "before")
    member = Member(people[0].device, server=SERVER)
    leaking: MaskedAnswers = member._masked
    leaking._own = lambda: own_encoder.own_encoder(vault)
    with pytest.raises(Declined) as caught:
        member.take_part(signed(invite(1), KEY), lambda data: None)
    assert caught.value.args[0] in (DeclineReason.OTHER_ENCODER, str(DeclineReason.OTHER_ENCODER))


def test_a_device_whose_log_is_not_good_any_more_stays_out_and_says_why(people: list[Person]) -> None:
    old = FIRST.log.with_statement(1_000_000_000, KEY)
    adopt(people[0].device.vault, SignedRelease(old, FIRST.encoder))
    assert people[0].answer(invite(1)) == b""
    assert "stayed out of a round: the server's log of releases was good until" in people[0].lines[-1]
    people[0].answer(encode_release(FIRST))
    assert people[0].answer(invite(1)) != b""
