"""The demo: two people with different tastes, what was understood, and the same prompts drawn for both.

`palate demo` runs the main job through `Device`, as a person would. Each of the two gets a vault in a
temporary folder, is taught a dozen free comments on the same pictures (client/demo, drawn by the recipe
`simulations/recipes/demo`), and gets pictures for the same prompts and seeds, next to the impersonal ones. At
the end the vaults are erased.

The evaluator belongs to the machinery, so it cannot say how well this went. An independent judge may be
plugged in through the entry point group "palate.judges"; the simulations bring one, and the device knows
nothing of them. It rates the pictures by the taste from which the comments were written, which the device
never sees.
"""

import secrets
import shutil
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from palate.client.device import Device
from palate.client.eye import hash_picture
from palate.client.painter.create import Made
from palate.client.records import Taught
from palate.client.runtime import Progress
from palate.client.taste import Profile
from palate.client.taste.scoring import look_at
from palate.shared.errors import PalateError

if TYPE_CHECKING:
    from palate.client.painter import Generator

COUNT = 2  # pictures for each prompt and person
STEPS = 20
BEST_OF = 6
JUDGES = "palate.judges"


class DemoJudge(Protocol):
    """An independent judge who rates pictures."""

    accuracy: str
    """One line on how far the judge can be trusted."""

    def rate(self, pictures: Sequence[Image.Image], tastes: Mapping[str, float]) -> list[float]:
        """Return how much each picture has of what is liked (1) and disliked (-1).

        Only comparisons mean something.
        """

    def name_subjects(self, pictures: Sequence[Image.Image]) -> list[str]:
        """Return what each picture shows."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the judge's word for its subject."""

    text: str
    subject: str


@dataclass(frozen=True)
class Judgement:
    """What the judge says about one person's pictures, over all prompts and seeds."""

    pairs: int
    own_better: int  # own picture suits the person better than the impersonal one of the same seed
    other_better: int  # the other person's picture does: the control, which should be low
    shows_subject: int  # of the own pictures


@dataclass(frozen=True)
class Shown:
    """One person of the demo."""

    name: str
    taught: tuple[Taught, ...]
    profile: Profile
    made: tuple[tuple[Made, ...], ...]  # by prompt, then seed
    best: tuple[Made, ...]  # the favourites among several candidates for the first prompt
    chance_of_impersonal: tuple[tuple[float, ...], ...]  # the person's evaluator on the impersonal pictures
    judgement: Judgement | None


@dataclass(frozen=True)
class Showcase:
    """Everything that the contact sheet and the page show."""

    people: tuple[Shown, Shown]
    prompts: tuple[Prompt, ...]
    impersonal: tuple[tuple[Image.Image, ...], ...]  # by prompt, then seed
    impersonal_shows_subject: int | None
    accuracy_of_judge: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the findings as `palate demo --json` prints them."""
        return {
            "seconds": round(self.seconds, 1),
            "judge": self.accuracy_of_judge,
            "impersonal_shows_subject": self.impersonal_shows_subject,
            "people": [
                {
                    "name": one.name,
                    "profile": one.profile.to_json(),
                    "comments": [taught.to_json() for taught in one.taught],
                    "verdict": asdict(one.judgement) if one.judgement else None,
                }
                for one in self.people
            ],
        }


def demo_folder() -> Path:
    """Return the folder of the pictures and comments that ship with the demo."""
    return Path(str(resources.files("palate.client").joinpath("demo")))


def demo_pictures() -> dict[str, bytes]:
    """Return the pictures that both people talk about, by the hash under which a vault knows them."""
    files = sorted(demo_folder().glob("*.jpg"))
    return {hash_picture(file): file.read_bytes() for file in files}


def run_showcase(
    *, progress: Progress, count: int = COUNT, steps: int = STEPS, best_of: int = BEST_OF
) -> Showcase:
    """Run the demo and return what came of it; nothing is left behind, however it ends.

    Args:
        progress: is told how far the work is.
        count: the number of pictures for each prompt and person.
        steps: of denoising.
        best_of: the number of candidates for each person's favourite; 0 for no favourite.
    """
    from palate.client.painter import load_generator

    start = time.perf_counter()
    script = tomllib.loads(demo_folder().joinpath("people.toml").read_text(encoding="utf-8"))
    prompts = tuple(Prompt(**one) for one in script.pop("prompts"))
    drawer = _Drawer(
        load_generator(progress=progress), prompts, count, steps, best_of, progress, runs=len(script)
    )
    folder = Path(tempfile.mkdtemp(prefix="palate-demo-"))  # which only this user can open
    try:
        people = [drawer.draw_for(folder / key, key, script[key]["name"]) for key in script]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show = Showcase(
        (people[0], people[1]), prompts, tuple(drawer.impersonal), None, None, time.perf_counter() - start
    )
    judge = find_judge()
    if judge is None:
        return show
    progress("asking the judge", 0, 1)
    tastes = [
        dict.fromkeys(script[key]["likes"], 1.0) | dict.fromkeys(script[key]["dislikes"], -1.0)
        for key in script
    ]
    judged = _judge(show, judge, tastes)
    progress("asking the judge", 1, 1)
    return replace(judged, seconds=time.perf_counter() - start)


class _Drawer:
    """Teaches and draws for one person after the other; the impersonal pictures are drawn once."""

    def __init__(
        self,
        generator: "Generator",
        prompts: tuple[Prompt, ...],
        count: int,
        steps: int,
        best_of: int,
        progress: Progress,
        runs: int,
    ) -> None:
        self._generator, self._prompts = generator, prompts
        self._count, self._steps, self._best_of = count, steps, best_of
        self._progress, self._done = progress, 0
        pictures = len(prompts) * count
        self._total = steps * (pictures * (runs + 1) + best_of * runs)
        self.impersonal: list[tuple[Image.Image, ...]] = []

    def draw_for(self, home: Path, key: str, name: str) -> Shown:
        """Return what came of one person's comments, taught to a vault in `home`."""
        with Device.init(home, secrets.token_urlsafe(24)) as device:
            device.teach_file(
                demo_folder() / f"{key}.json",
                lambda what, done, total: self._progress(f"{name}: {what}", done, total),
            )
            made = []
            for number, prompt in enumerate(self._prompts):
                beside = len(self.impersonal) <= number
                made.append(self._create(device, prompt, self._count, 10 * number, beside=beside))
                if beside:
                    self.impersonal.append(
                        tuple(one.picture.impersonal for one in made[-1] if one.picture.impersonal)
                    )
            best: tuple[Made, ...] = ()
            if self._best_of:
                best = self._create(device, self._prompts[0], 1, 100, pick=self._best_of)
            evaluator = device.evaluator()
            chances = tuple(
                tuple(float(evaluator.probabilities(look_at(picture)[None])[0]) for picture in row)
                for row in self.impersonal
            )
            return Shown(name, device.comments(), device.profile(), tuple(made), best, chances, None)

    def _create(
        self, device: Device, prompt: Prompt, count: int, seed: int, *, beside: bool = False, pick: int = 1
    ) -> tuple[Made, ...]:
        before = self._done

        def tell(what: str, done: int, _total: int) -> None:
            if what == "making pictures":
                self._done = before + done
                self._progress(what, self._done, max(self._total, self._done))

        made = device.create(
            prompt.text,
            count=count,
            seed=seed,
            steps=self._steps,
            beside=beside,
            pick=pick,
            model=self._generator,
            progress=tell,
        )
        return tuple(made)


def _judge(show: Showcase, judge: DemoJudge, tastes: Sequence[Mapping[str, float]]) -> Showcase:
    """Return the showcase with the judge's judgement on each person's pictures, by their true taste."""
    plain = [picture for row in show.impersonal for picture in row]
    asked = [prompt.subject for prompt, row in zip(show.prompts, show.impersonal, strict=True) for _ in row]
    own = [[one.picture.image for row in person.made for one in row] for person in show.people]
    people = []
    for number, person in enumerate(show.people):
        base, mine, others = (
            judge.rate(pictures, tastes[number]) for pictures in (plain, own[number], own[1 - number])
        )
        judgement = Judgement(
            pairs=len(base),
            own_better=_count_better(mine, base),
            other_better=_count_better(others, base),
            shows_subject=_count_equal(judge.name_subjects(own[number]), asked),
        )
        people.append(replace(person, judgement=judgement))
    return replace(
        show,
        people=(people[0], people[1]),
        impersonal_shows_subject=_count_equal(judge.name_subjects(plain), asked),
        accuracy_of_judge=judge.accuracy,
    )


def find_judge() -> DemoJudge | None:
    """Return the judge that is plugged in, or None if there is none or it lacks its weights."""
    for entry in metadata.entry_points(group=JUDGES):
        try:
            judge: DemoJudge = entry.load()()
        except (ImportError, OSError, PalateError):
            continue
        return judge
    return None


def _count_better(values: Sequence[float], base: Sequence[float]) -> int:
    return sum(value > other for value, other in zip(values, base, strict=True))


def _count_equal(values: Sequence[str], wanted: Sequence[str]) -> int:
    return sum(value == other for value, other in zip(values, wanted, strict=True))
