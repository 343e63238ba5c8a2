"""A whole run on a server's folder: resume at the checkpoint, run the rounds, keep each, say how it ended.

Where it stands in the flow: `app` calls `federate` with devices that it reaches through Flower; simulations
call it with devices in the same process. Everything that a server has lies in one folder:

    checkpoint.safetensors   where the federation stands          (checkpoints)
    releases/                numbered encoders, the signed log    (releases)
    release.key              signs releases                       (releases.release_keys)
    recovery.key             signs changes of keys, until it is moved off this machine
    round.key, round.delegations    sign invitations, and by what right    (releases.round_key)
    registrar.key            vouches for devices, if there is one (commands.registrar)
    registrar/, slots/       its keys for slots and its books; the public slot keys    (registrar)
    slot.json                the newest slot that a masked round had                   (slots)
    rounds.jsonl             what each round was like             (metrics)
    privacy.jsonl            what of the privacy budget is spent  (ledger)
    noise/                   the noise plan's seed and state      (noise_plan.folder)
    now.json                 what a run is doing at this moment, for progress bars
    ended.json               how the last run ended
    run.json, server.json    the run that was submitted, the server that was started    (processes)
    flower/, logs/           Flower's books, configuration and work folder; every log
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from palate.server.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from palate.server.ledger.booking import Ledger
from palate.server.metrics import MetricsLog
from palate.server.releases.folder import list_releases, newest_encoder, newest_message
from palate.server.releases.round_key import signer
from palate.server.rounds.exchange import Devices, Now, Patience
from palate.server.rounds.loop import Average, Book, Spend, no_ledger, run_rounds
from palate.server.rounds.planned import PlannedNoise
from palate.server.rounds.slots import Slots, kept_slots
from palate.server.secure_sum.reach import AGREED
from palate.server.secure_sum.sums import TOTAL, TOTALS
from palate.server.settings import RunSettings
from palate.shared.accounting import Budget, Cost
from palate.shared.durable import locked, make_folder, write_atomically
from palate.shared.encoder import EncoderWeights
from palate.shared.errors import PalateError, StorageError
from palate.shared.sum_noise import SumNoise

LOCK_SECONDS = 30.0  # what is left of a killed server lets go of the folder within a second


@dataclass(frozen=True)
class ServerFolder:
    """Where the server keeps what."""

    home: Path

    @property
    def checkpoint(self) -> Path:
        """The checkpoint."""
        return self.home / "checkpoint.safetensors"

    @property
    def releases(self) -> Path:
        """The releases."""
        return self.home / "releases"

    @property
    def rounds(self) -> Path:
        """One line of JSON per round."""
        return self.home / "rounds.jsonl"

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.home / "privacy.jsonl"

    @property
    def noise(self) -> Path:
        """The seed and the state of the noise plan."""
        return self.home / "noise"

    @property
    def now(self) -> Path:
        """What the run is doing."""
        return self.home / "now.json"

    @property
    def admitted(self) -> Path:
        """The public keys of the devices that may join."""
        return self.home / "admitted.json"

    @property
    def ended(self) -> Path:
        """How the last run ended."""
        return self.home / "ended.json"


def standing(folder: ServerFolder, settings: RunSettings, first: EncoderWeights | None = None) -> Checkpoint:
    """Return where the federation stands: its checkpoint, or before round 1 the newest release.

    Args:
        folder: the server's folder.
        settings: those of the run at hand. What one averaging strategy remembers is dropped for another.
        first: an encoder to start from in place of the newest release.

    Raises:
        FileFormatError, ModelError, StorageError: what lies there cannot be used.
    """
    kept = read_checkpoint(folder.checkpoint)
    if kept is None:
        return Checkpoint(0, newest_encoder(folder.releases) if first is None else first, settings)
    memory = kept.memory
    if kept.settings.strategy != settings.strategy:  # what the sums were like is of use to every strategy
        memory = {name: kept.memory[name] for name in (AGREED, TOTAL, TOTALS) if name in kept.memory}
    state = replace(kept, settings=settings, memory=memory)
    cards = list_releases(folder.releases)
    if len(cards) > kept.encoder.release:  # a release was made since: it is what devices grow from now
        # Rounds may have gone on while it was being signed elsewhere: what came since then is not in it.
        since = max(0, kept.updates - cards[-1].updates)
        state = replace(state, encoder=EncoderWeights(len(cards), kept.encoder.tensors), updates=since)
    return state


def federate(
    devices: Devices,
    folder: ServerFolder,
    settings: RunSettings,
    *,
    average: Average,
    run: str = "",
    first: EncoderWeights | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
    on_round: Callable[[Checkpoint], None] = lambda _: None,
) -> Checkpoint:
    """Run the rounds up to `settings.rounds`, keep each before the next begins, and return where it ended.

    Started again after a kill at any moment, it goes on from the last round that was kept. It ends with the
    very bits of an uninterrupted run if the devices answer the same.

    Args:
        devices: the devices, behind Flower or in this process.
        folder: the server's folder, which this locks.
        settings: how many rounds, with how many devices, under which masks and noise.
        average: the averaging strategy, `strategy.average` as a rule.
        run: a name that `now.json` and `ended.json` repeat.
        first: the encoder to start from where there is no checkpoint yet.
        patience: how the loop passes time.
        on_round: called with the checkpoint after each round.

    Returns:
        The last checkpoint.

    Raises:
        FederationError, StorageError and others of our tree: the run has ended; `ended.json` holds the line.
    """
    make_folder(folder.home)
    with locked(folder.home / "lock", LOCK_SECONDS, f"the server folder {folder.home}", busy=StorageError):
        folder.ended.unlink(missing_ok=True)
        try:
            state = start = standing(folder, settings, first)
            installed = newest_encoder(folder.releases) if first is None else first
            metrics = MetricsLog(folder.rounds, after=start.metrics)
            ledger = _ledger_of(folder, start)
            for state in run_rounds(
                devices,
                start,
                average=average,
                tell=_teller(folder, run),
                patience=patience,
                spend=_spender(ledger, settings),
                noise=_planned(folder, start, ledger),
                release=installed,
                sign=signer(folder.home),
                offered=newest_message(folder.releases) or b"",
                slots=_slots_of(folder, start),
            ):
                write_checkpoint(folder.checkpoint, state)
                metrics.record(state.metrics)
                on_round(state)
        except PalateError as error:
            _note_end(folder, {"run": run, "ended": "failed", "reason": str(error)})
            raise
        _note_end(folder, {"run": run, "ended": "finished", "round": state.round})
        return state


def _ledger_of(folder: ServerFolder, start: Checkpoint) -> Ledger | None:
    """Return the server's privacy ledger, for runs that have noise.

    It must go on from where it was, or LedgerDamagedError is raised.
    """
    privacy = start.settings.privacy
    if privacy is None or not (privacy.noise_multiplier or privacy.plan):
        return None
    ledger = Ledger(folder.ledger, Budget(privacy.epsilon, privacy.delta))
    if start.metrics.get("ledger"):
        ledger.require(start.metrics["ledger"])
    return ledger


def _slots_of(folder: ServerFolder, start: Checkpoint) -> Slots:
    """Return the slots of the run's masked rounds, counted in the folder."""
    privacy = start.settings.privacy
    registrar = "" if privacy is None else privacy.registrar
    return kept_slots(folder.home, bytes.fromhex(registrar) or None)


def _planned(folder: ServerFolder, start: Checkpoint, ledger: Ledger | None) -> PlannedNoise | None:
    """Return the noise plan of a run that has one, and that has rounds left to do."""
    privacy, wanted = start.settings.privacy, start.settings.rounds
    if ledger is None or privacy is None or privacy.plan is None or start.round >= wanted:
        return None
    return PlannedNoise(folder.noise, start.settings, ledger)


def _spender(ledger: Ledger | None, settings: RunSettings) -> Spend:
    """Return what books each round in the ledger, before its sum can be seen.

    Rounds of a noise plan are booked by `planned`.
    """
    if ledger is None or settings.privacy is None:
        return no_ledger
    share = settings.privacy.counted_share

    def spend(round: int, noise: SumNoise, chance: float | None, asked: int) -> Book:  # noqa: A002
        cost = Cost(noise.counted, chance).on_grid()
        ledger.check(cost)

        def book() -> str:
            ledger.book(round, cost, cohort=asked, noise=noise, honest_share=share)
            return ledger.head

        return book

    return spend


def read_note(path: Path) -> dict[str, Any]:
    """Return `now.json`, `ended.json` or one of the others.

    The note is empty when there is none, or it is being written.
    """
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _teller(folder: ServerFolder, run: str) -> Callable[[Now], None]:
    def tell(now: Now) -> None:
        # For looking at only: not forced to the disk, and no reason to end a run.
        with contextlib.suppress(OSError):
            write_atomically(folder.now, json.dumps({"run": run, **asdict(now)}).encode(), lasting=False)

    return tell


def _note_end(folder: ServerFolder, note: dict[str, Any]) -> None:
    folder.now.unlink(missing_ok=True)
    with contextlib.suppress(PalateError):  # the disk may be full, which is then what the run ends with
        write_atomically(folder.ended, json.dumps(note).encode(), consequence="the end was not noted")
