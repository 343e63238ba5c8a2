"""One person's device: their comments, profile and pictures behind one object.

The command line, the demo and the Flower app use it. In the example, `home` is a folder that is not there
yet, and `picture` is a file.

    >>> with Device.init(home, "correct horse") as device:
    ...     taught = device.teach(picture, "love the warm light, but it is far too busy")
    ...     print(device.profile().signed())
    ...     score = device.score([picture])[0]
    ...     made = device.create("a house by the sea", count=1, steps=1)[0]
    {'warm': 0.47..., 'busy': -0.4...}
    >>> 0 < score.low <= score.probability <= score.high < 1
    True
    >>> made.png[1:4]
    b'PNG'

The device ties the flow together and keeps nothing to itself. What is personal goes through one transaction
of the vault for each act. Profile and evaluator are computed each time from the comments that are kept, so
forgetting a comment leaves everything as if it had never been given. (The vault's docstring says what
"forgotten" means on a disk.)
"""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from palate.client import records, teaching
from palate.client.reader import read_lessons
from palate.client.records import EDITS, KEY, Taught
from palate.client.runtime import Notice, Progress, no_notice, no_progress
from palate.client.taste import profile as profiles
from palate.client.taste.profile import Edit, Preference, Profile, build_profile
from palate.client.vault import folder as vault_folder
from palate.client.vault import format as vault_format
from palate.client.vault.store import ONLY
from palate.client.vault.vault import Vault
from palate.shared.attributes import load_vocabulary
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from palate.client.eye import OnUnreadable, PictureSource
    from palate.client.painter import Generator
    from palate.client.painter.create import Made
    from palate.client.reader.extractor import Extractor
    from palate.client.taste.evaluator import Evaluator
    from palate.client.taste.scoring import PictureScore
    from palate.client.vault.keyrings import KeyStore

ENOUGH_LIKED, ENOUGH_DISLIKED = 8, 8
"""With so many liked and disliked pictures, more help little; ViPer (ECCV 2024) collects as many."""


class Device:
    """One person's device. Make it with `Device.init` or `Device.open`, and close it, best with `with`."""

    def __init__(self, vault: Vault, *, extractor: "str | Extractor" = "shipped") -> None:
        """Use an open vault.

        Args:
            vault: the open vault, which the device closes.
            extractor: what reads the comments; see `extractor.extract_attributes`.
        """
        self.vault = vault
        self._extractor = extractor
        self._read: dict[str, Taught] = {}  # each record is read once, and again when it has changed

    # --- the vault ------------------------------------------------------------------------------------------

    @classmethod
    def init(
        cls, home: Path | str, passphrase: str | None = None, *, keyring: "KeyStore | None" = None
    ) -> "Device":
        """Make an empty vault in the folder `home` and open it; raises what `Vault.create` raises."""
        return cls(Vault.create(home, passphrase, keyring=keyring))

    @classmethod
    def open(
        cls,
        home: Path | str,
        passphrase: str | None = None,
        *,
        keyring: "KeyStore | None" = None,
        extractor: "str | Extractor" = "shipped",
    ) -> "Device":
        """Open the vault in `home`; raises what `Vault.open` raises."""
        return cls(Vault.open(home, passphrase, keyring=keyring), extractor=extractor)

    @staticmethod
    def exists(home: Path | str) -> bool:
        """Return whether there is a vault in `home`, sound or damaged."""
        return any((Path(home) / name).exists() for name in (vault_folder.HEAD, vault_folder.RECORDS))

    @staticmethod
    def is_locked_by_passphrase(home: Path | str) -> bool:
        """Return whether the vault in `home` needs a passphrase; raises what `folder.read_lock` raises."""
        return vault_folder.read_lock(home).lock == vault_format.LOCKED_BY_PASSPHRASE

    def close(self) -> None:
        """Drop the vault's keys."""
        self.vault.close()

    def __enter__(self) -> "Device":
        """Give the device to a `with` block, at whose end it is closed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the device."""
        self.close()

    def export(self, path: Path | str, passphrase: str) -> int:
        """Write everything into one sealed file and return the number of records (`backup.export_vault`)."""
        from palate.client.backup import export_vault

        return export_vault(self.vault, path, passphrase)

    def import_(self, path: Path | str, passphrase: str, *, spent: float | None = None) -> int:
        """Take over an exported file into this empty vault and return the number of records.

        The vault counts as restored. Raises what `backup.import_vault` raises.

        Args:
            path: the exported file.
            passphrase: the file's own.
            spent: the epsilon that its owner says was spent; None stands for the whole budget.
        """
        from palate.client.backup import import_vault

        return import_vault(self.vault, path, passphrase, spent=spent)

    @staticmethod
    def erase(home: Path | str) -> None:
        """Destroy the vault in `home`, keys first; raises what `Vault.erase` raises."""
        Vault.erase(home)

    # --- comments -------------------------------------------------------------------------------------------

    def teach(
        self, picture: "PictureSource", comment: str | None = None, liked: bool | None = None
    ) -> Taught:
        """Learn from a comment on a picture, from a verdict on it, or from both.

        The same comment on the same picture counts once, however often it is taught, and so does the same
        verdict without words. Of several verdicts on one picture the newest counts. A verdict alone moves the
        evaluator and says nothing to the profile.

        Args:
            picture: a file, or the bytes of a picture.
            comment: the person's own words; None or empty for a verdict alone.
            liked: the verdict on the whole picture, None for none.

        Returns:
            What was taught; if it was taught before, the kept one.

        Raises:
            CommentError: an unreadable comment, or neither words nor a verdict. Nothing was changed.
            PictureError: the picture cannot be read. Nothing was changed.
        """
        return teaching.teach_picture(
            self.vault, self.comments(), self._extractor, picture, comment or "", liked
        )

    def teach_all(
        self,
        pictures: "Sequence[PictureSource]",
        liked: bool,
        *,
        comment: str | None = None,
        progress: Progress = no_progress,
        on_unreadable: "OnUnreadable | None" = None,
    ) -> list[Taught]:
        """Learn the same verdict on many pictures, for example on a folder of favourites.

        All pictures are read before the first is kept.

        Args:
            pictures: files, folders (which stand for the pictures in them) or bytes.
            liked: the verdict on each of them.
            comment: words that hold for each of them, if there are any.
            progress: is told how far the work is.
            on_unreadable: is told of each picture that cannot be read, which is then left out. Without it the
                first such picture is raised, and nothing was changed.

        Returns:
            What was taught, in the order of the pictures; what was taught before is the kept one.

        Raises:
            CommentError: the comment cannot be read.
            PictureError: a picture that cannot be read, or a folder without pictures.
            OptionError: more than 10,000 pictures.
        """
        return teaching.teach_pictures(
            self.vault,
            self.comments(),
            self._extractor,
            pictures,
            comment or "",
            liked,
            progress=progress,
            on_unreadable=on_unreadable,
        )

    def teach_file(self, path: Path | str, progress: Progress = no_progress) -> list[Taught]:
        """Learn from a file of comments (see `comment.read_lessons`).

        All of it is checked before any of it is taught.

        Each comment is one change of the vault: stopped half-way, what was taught is kept, and teaching the
        file again goes on where it stopped.

        Raises:
            FileFormatError: the file does not have the documented form.
            PictureError: a picture of the file cannot be read.
        """
        lessons = read_lessons(path, english=self._extractor == "shipped")
        teaching.check_pictures(path, lessons, progress)
        taught = []
        for number, lesson in enumerate(lessons):
            progress("reading comments", number, len(lessons))
            taught.append(self.teach(lesson.image, lesson.comment, lesson.liked))
        progress("reading comments", len(lessons), len(lessons))
        return taught

    def comments(self) -> tuple[Taught, ...]:
        """Return all that was taught, with the attributes in it, the oldest first."""
        self._read = records.read_taught(self.vault, self._read)
        taught = teaching.calibrated(tuple(self._read.values()))
        return tuple(sorted(taught, key=lambda one: (one.comment.created, one.comment.id)))

    def fix(self, comment: str, words: str, polarity: int) -> Taught:
        """Put right what was understood from some words of a comment, and return it.

        It stays right whatever a later reader makes of them, and is a label for `reader.corrections`.
        polarity is +1 for liked, -1 for disliked, 0 for neither; words are some of the comment's, or an
        attribute's name. Raises `OptionError` if there is no such id, or no such words.
        """
        teaching.correct_reading(self.vault, comment, words, polarity)
        self._read.pop(comment, None)
        return next(one for one in self.comments() if one.comment.id == comment)

    def read_anew(self, progress: Progress = no_progress) -> int:
        """Read again what an earlier shipped reader read, and return how many comments that were."""
        if self._extractor != "shipped":
            return 0
        count = teaching.read_anew(self.vault, self.comments(), progress)
        self._read.clear()
        return count

    def forget(self, comment: str) -> None:
        """Forget what was taught under this id, and its picture unless something else was taught about it.

        Profile, evaluator and adapter are then as if it had never been taught. What was set, locked or vetoed
        by hand stays.

        Raises:
            OptionError: there is no such id.
        """
        teaching.forget_comment(self.vault, comment)

    # --- the profile ----------------------------------------------------------------------------------------

    def profile(self) -> Profile:
        """Return what the person likes and dislikes, from all comments and the person's own edits."""
        evidence = [profiles.evidence_of(one) for one in self.comments()]
        return build_profile(evidence, profiles.read_edits(self.vault))

    def profile_version(self) -> str:
        """Return 12 hexadecimal digits that name the profile's present state.

        They say nothing about it: see `profile.name_version`.
        """
        if not self.vault.has(KEY, ONLY):
            with self.vault.transaction() as change:
                if not change.has(KEY, ONLY):
                    change.put(KEY, ONLY, secrets.token_bytes(32))
        return profiles.name_version(self.profile(), self.vault.get(KEY, ONLY))

    def still_needed(self) -> tuple[int, int]:
        """Return how many liked and how many disliked pictures are still missing.

        With `ENOUGH_LIKED` and `ENOUGH_DISLIKED` of them, more help little.
        """
        verdicts = [one.comment.liked for one in profiles.newest_verdicts(self.comments())]
        return max(0, ENOUGH_LIKED - verdicts.count(True)), max(0, ENOUGH_DISLIKED - verdicts.count(False))

    def set(self, attribute: str, strength: float) -> Preference | None:
        """Give an attribute a strength by hand and return what the profile says of it then.

        Args:
            attribute: any words; those of the vocabulary get its name and category.
            strength: -1 (dislike) to 1 (like), 0 for neither.

        Raises:
            OptionError: a strength out of range, or a locked attribute.
        """
        name, category = self._name_attribute(attribute)
        self._edit(lambda edits: profiles.set_preference(edits, name, category, strength))
        return self._find(name)

    def lock(self, attribute: str) -> Preference | None:
        """Keep an attribute at the strength it has now; raises `OptionError` if it is not in the profile."""
        name, _ = self._name_attribute(attribute)
        self._edit(lambda edits: profiles.lock_preference(edits, self.profile(), name))
        return self._find(name)

    def unlock(self, attribute: str) -> Preference | None:
        """Open a locked attribute to edits again; raises `OptionError` if it is not locked."""
        name, _ = self._name_attribute(attribute)
        self._edit(lambda edits: profiles.unlock_preference(edits, name))
        return self._find(name)

    def veto(self, attribute: str) -> str:
        """Keep an attribute out of the profile for good and return its name; `OptionError` if locked."""
        name, category = self._name_attribute(attribute)
        self._edit(lambda edits: profiles.veto_preference(edits, name, category))
        return name

    def unset(self, attribute: str) -> Preference | None:
        """Take back what was decided by hand about an attribute, so that the comments speak again."""
        name, _ = self._name_attribute(attribute)
        self._edit(lambda edits: profiles.unset_preference(edits, name))
        return self._find(name)

    # --- pictures -------------------------------------------------------------------------------------------

    def evaluator(
        self, *, adapt: bool = True, progress: Progress = no_progress, notice: Notice = no_notice
    ) -> "Evaluator":
        """Return the person's evaluator, fitted now to the comments that are kept.

        Args:
            adapt: whether to use the person's adapter if it helps. It is trained first (seconds) if comments
                changed.
            progress: is told how far the work is.
            notice: gets lines that the person should see.
        """
        from palate.client.releases.own_encoder import settle_encoder
        from palate.client.taste.fitting import fit_evaluator_to_vault

        return fit_evaluator_to_vault(
            self.vault,
            self.comments(),
            self.profile(),
            choose_encoder=settle_encoder,
            adapt=adapt,
            progress=progress,
            notice=notice,
        )

    def score(
        self,
        pictures: "Sequence[PictureSource]",
        *,
        adapt: bool = True,
        progress: Progress = no_progress,
        notice: Notice = no_notice,
        on_unreadable: "OnUnreadable | None" = None,
    ) -> "list[PictureScore]":
        """Return for each picture how likely the person likes it, and why.

        For scores without a vault see `scoring.score_pictures`.

        Args:
            pictures: files, folders (which stand for the pictures in them) or bytes.
            adapt: whether to use the person's adapter, where it helps.
            progress: is told how far the work is.
            notice: gets lines that the person should see.
            on_unreadable: is told of each picture that cannot be read, which is then left out. Without it the
                first such picture is raised.

        Raises:
            PictureError: a picture that cannot be read, or a folder without pictures.
            OptionError: more than 10,000 pictures.
        """
        from palate.client.eye import copy_picture, find_pictures, read_each
        from palate.client.taste import scoring

        found = read_each(
            find_pictures(pictures), copy_picture, progress=progress, on_unreadable=on_unreadable
        )
        features = scoring.look_at_copies([copy for _, copy in found], progress)
        evaluator = self.evaluator(adapt=adapt, progress=progress, notice=notice)
        return scoring.name_scores([name for name, _ in found], evaluator, features)

    def create(
        self,
        prompt: str,
        *,
        count: int = 4,
        seed: int = 0,
        steps: int | None = None,
        strength: float | None = None,
        dislike_strength: float | None = None,
        mode: str | None = None,
        negative: str = "",
        pick: int = 1,
        beside: bool = False,
        model: "str | Path | Generator | None" = None,
        size: tuple[int, int] | None = None,
        progress: Progress = no_progress,
        notice: Notice = no_notice,
    ) -> "list[Made]":
        """Make pictures of what the prompt says, in the person's taste.

        Args:
            prompt: what the pictures show.
            count: the number of pictures.
            seed: the first picture's; the others count up.
            steps: of denoising; None stands for the measured default, here and below.
            strength: how strongly the likes count, 0 (the impersonal picture) to 2.
            dislike_strength: the same for the dislikes; None stands for `strength`.
            mode: how the taste goes in, one of `generator.MODES`.
            negative: what the pictures should not show.
            pick: the number of candidates drawn for each picture; the evaluator keeps the best.
            beside: whether to draw the same seeds without the profile too.
            model: another generator: a folder, a hub id with its commit, or a loaded one.
            size: width and height in pixels; None stands for the model's own.
            progress: is told how far the work is.
            notice: gets lines that the person should see.

        Raises:
            OptionError: an option out of range.
            ModelError: a model that cannot be loaded.
        """
        from palate.client.painter import create as creating
        from palate.client.painter.drawable import likes_and_dislikes
        from palate.client.painter.generator import (
            DEFAULT_MODE,
            DEFAULT_STEPS,
            DEFAULT_STRENGTH,
            Generator,
            Request,
            load_generator,
        )

        profile = self.profile()
        drawn = model is None or (isinstance(model, Generator) and model.shipped)
        likes, dislikes = likes_and_dislikes(profile, drawn=drawn)
        request = Request(
            prompt,
            count=count,
            seed=seed,
            dislike_strength=dislike_strength,
            negative=negative,
            pick=pick,
            beside=beside,
            steps=DEFAULT_STEPS if steps is None else steps,
            strength=DEFAULT_STRENGTH if strength is None else strength,
            mode=DEFAULT_MODE if mode is None else mode,
            likes=likes,
            dislikes=dislikes,
            width=size and size[0],
            height=size and size[1],
        )
        if not (profile.likes or profile.dislikes):
            notice("your profile is empty, so these pictures are not personal yet; teach some comments first")
        generator = model if isinstance(model, Generator) else load_generator(model, progress=progress)
        if not generator.reads_whole(prompt):
            notice("the prompt is longer than the model reads; what stands at its end has no effect")
        evaluator = self.evaluator(progress=progress, notice=notice)
        return creating.create_pictures(
            generator, request, evaluator, profile_version=self.profile_version(), progress=progress
        )

    # --- inside ---------------------------------------------------------------------------------------------

    def _edit(self, change_edits: "Callable[[dict[str, Edit]], dict[str, Edit]]") -> None:
        with self.vault.transaction() as change:
            change.put(EDITS, ONLY, profiles.encode_edits(change_edits(profiles.read_edits(change))))
            if change.has(records.ADAPTER, ONLY):
                change.delete(records.ADAPTER, ONLY)

    def _find(self, attribute: str) -> Preference | None:
        profile = self.profile()
        return next((one for one in (*profile.likes, *profile.dislikes) if one.attribute == attribute), None)

    def _name_attribute(self, words: str) -> tuple[str, str]:
        """Return the attribute that these words name, and its category.

        Both come from the vocabulary, or from the comments, or are new.
        """
        words = " ".join(words.split()).lower()
        if not words or len(words) > 100:
            raise OptionError(f"an attribute is named in 1 to 100 characters, not in {len(words)}")
        vocabulary = load_vocabulary()
        term = vocabulary.find(words)
        if term is not None:
            name = vocabulary.same(term.name)
            return name, vocabulary.category(name) or term.category
        for one in self.comments():
            for mention in one.mentions:
                if words in (mention.name, mention.attribute):
                    return mention.name, mention.category
        return words, "other"
