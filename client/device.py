"""The device: one person's comments, profile and pictures behind one object, used by command line, page and Flower app.

    with Device.open(home, passphrase) as device:
        device.teach("sunset.jpg", "love the warm light, but it is far too busy")
        print(device.profile().signed())          # {"warm": 0.6, ..., "busy": -0.6}
        pictures = device.create("a house by the sea", n=4, pick=1)

It ties the flow together and keeps nothing to itself: what is personal goes through one transaction of the vault for
each act, profile and evaluator are computed afresh from the comments that are kept, and so forgetting a comment leaves
everything as if it had never been given. (The vault's text says what "forgotten" means on a disk.)
"""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from palate.client import records
from palate.client.reader.comment import Lesson, new_comment, read_lessons
from palate.client.records import COMMENT, EDITS, KEY, PICTURE, Taught
from palate.client.runtime.progress import Notice, Progress, no_notice, no_progress
from palate.client.taste import profile as profiles
from palate.client.taste.profile import Edit, Preference, Profile, build_profile
from palate.client.vault import folder as vault_folder
from palate.client.vault import format as vault_format
from palate.client.vault.store import ONLY
from palate.client.vault.vault import Vault
from palate.shared.attributes import load_vocabulary
from palate.shared.errors import OptionError, PictureError

if TYPE_CHECKING:
    from palate.client.painter.create import Made
    from palate.client.painter.generator import Generator
    from palate.client.reader.extractor import Extractor
    from palate.client.taste.evaluator import Evaluator
    from palate.client.taste.scoring import PictureScore
    from palate.client.vault.keyrings import KeyStore

ENOUGH_LIKED, ENOUGH_DISLIKED = 8, 8
"""After so many verdicts of each kind more of them help little; ViPer (ECCV 2024) asks for as many."""


class Device:
    """One person's device; make it with `Device.init` or `Device.open`, and close it, best by `with`."""

    def __init__(self, vault: Vault, *, extractor: "str | Extractor" = "shipped") -> None:
        """Use an open vault; `extractor` reads the comments (see `extractor.extract_attributes`)."""
        self.vault = vault
        self._extractor = extractor
        self._read: dict[str, Taught] = {}  # a comment's record never changes, so it is opened once

    # --- the vault ----------------------------------------------------------------------------------------------

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
        """Say whether there is a vault in `home`, sound or damaged."""
        return any((Path(home) / name).exists() for name in (vault_folder.HEAD, vault_folder.RECORDS))

    @staticmethod
    def is_locked_by_passphrase(home: Path | str) -> bool:
        """Say whether the vault in `home` needs a passphrase; raises `VaultMissingError` or `VaultDamagedError`."""
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
        """Write everything into one sealed file and return how many records; raises what `export_vault` raises."""
        from palate.client.backup import export_vault

        return export_vault(self.vault, path, passphrase)

    def import_(self, path: Path | str, passphrase: str, *, spent: float | None = None) -> int:
        """Take over an exported file into this empty vault, which counts as restored; raises what `import_vault` raises."""
        from palate.client.backup import import_vault

        return import_vault(self.vault, path, passphrase, spent=spent)

    @staticmethod
    def erase(home: Path | str) -> None:
        """Destroy the vault in `home`, keys first; raises what `Vault.erase` raises."""
        Vault.erase(home)

    # --- comments -----------------------------------------------------------------------------------------------

    def teach(self, picture: Path | str | bytes, comment: str, liked: bool | None = None) -> Taught:
        """Learn from a comment on a picture (a file, or its bytes) and the person's verdict on it, if there is one.

        The same comment on the same picture counts once, however often it is taught. Raises `CommentError` or
        `PictureError`, and then nothing was changed.
        """
        from palate.client.eye.pictures import KEPT_SIDE_PIXELS, hash_picture, read_picture, shrink_picture
        from palate.client.eye.tower import what_is_shown
        from palate.client.reader.extractor import extract_attributes

        hashed = hash_picture(picture)
        new = new_comment(comment, liked, hashed)
        for one in self.comments():
            if (one.comment.picture, one.comment.text, one.comment.liked) == (hashed, new.text, liked):
                return one
        kept = shrink_picture(read_picture(picture, least_side=2 * KEPT_SIDE_PIXELS))
        # Everything is computed from the kept copy, so that computing it again gives the same.
        image = read_picture(kept)
        mentions = extract_attributes(
            new.text, image, liked=liked, backend=self._extractor, shown=what_is_shown
        )
        taught = Taught(new, tuple(mentions))
        with self.vault.transaction() as change:
            change.put(COMMENT, new.id, records.encode_taught(taught))
            if not change.has(PICTURE, hashed):
                change.put(PICTURE, hashed, kept)
        return taught

    def teach_file(self, path: Path | str, progress: Progress = no_progress) -> list[Taught]:
        """Learn from a file of comments (see `comments.read_lessons`); all of it is checked before any of it is taught.

        Each comment is one change of the vault: stopped half-way, what was taught is kept, and teaching the file again
        goes on where it stopped. Raises `FileFormatError` or `PictureError`.
        """
        lessons = read_lessons(path)
        _check_pictures(path, lessons, progress)
        taught = []
        for number, lesson in enumerate(lessons):
            progress("reading comments", number, len(lessons))
            taught.append(self.teach(lesson.image, lesson.comment, lesson.liked))
        progress("reading comments", len(lessons), len(lessons))
        return taught

    def comments(self) -> tuple[Taught, ...]:
        """Return every comment with the attributes found in it, the oldest first."""
        self._read = records.read_taught(self.vault, self._read)
        return tuple(sorted(self._read.values(), key=lambda one: (one.comment.created, one.comment.id)))

    def forget(self, comment: str) -> None:
        """Forget the comment of this id, and its picture unless another comment is about it.

        Profile, evaluator and adapter are then what they would be had it never been taught; what was set, locked or
        vetoed by hand stays. Raises `OptionError` for an id that there is not.
        """
        with self.vault.transaction() as change:
            if not change.has(COMMENT, comment):
                raise OptionError(
                    f"there is no comment {comment!r}; `palate comments` lists them with their ids"
                )
            picture = records.decode_taught(change.get(COMMENT, comment)).comment.picture
            change.delete(COMMENT, comment)
            if picture not in {one.comment.picture for one in records.read_taught(change).values()}:
                for type_ in (PICTURE, records.FEATURES):
                    if picture is not None and change.has(type_, picture):
                        change.delete(type_, picture)
            if change.has(records.ADAPTER, ONLY):
                change.delete(records.ADAPTER, ONLY)

    # --- the profile --------------------------------------------------------------------------------------------

    def profile(self) -> Profile:
        """Return what the person likes and dislikes, from all comments and the person's own edits."""
        evidence = [profiles.evidence_of(one) for one in self.comments()]
        return build_profile(evidence, profiles.read_edits(self.vault))

    def profile_version(self) -> str:
        """Return 12 hexadecimal digits that name the profile's present state and say nothing about it."""
        if not self.vault.has(KEY, ONLY):
            with self.vault.transaction() as change:
                if not change.has(KEY, ONLY):
                    change.put(KEY, ONLY, secrets.token_bytes(32))
        return profiles.name_version(self.profile(), self.vault.get(KEY, ONLY))

    def still_needed(self) -> tuple[int, int]:
        """Return how many liked and how many disliked pictures are missing until more of them would help little."""
        verdicts = [one.comment.liked for one in self.comments()]
        return max(0, ENOUGH_LIKED - verdicts.count(True)), max(0, ENOUGH_DISLIKED - verdicts.count(False))

    def set(self, attribute: str, strength: float) -> Preference | None:
        """Give an attribute a strength from -1 (dislike) to 1 (like) by hand, 0 for neither.

        Any words name an attribute; those of the vocabulary get its name and category. Raises `OptionError` for a
        strength out of range or a locked attribute.
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
        """Keep an attribute out of the profile for good and return its name; raises `OptionError` if it is locked."""
        name, category = self._name_attribute(attribute)
        self._edit(lambda edits: profiles.veto_preference(edits, name, category))
        return name

    def unset(self, attribute: str) -> Preference | None:
        """Take back what was decided by hand about an attribute, so that the comments speak again."""
        name, _ = self._name_attribute(attribute)
        self._edit(lambda edits: profiles.unset_preference(edits, name))
        return self._find(name)

    # --- pictures -----------------------------------------------------------------------------------------------

    def evaluator(
        self, *, adapt: bool = True, progress: Progress = no_progress, notice: Notice = no_notice
    ) -> "Evaluator":
        """Return the person's evaluator, fitted now to the comments that are kept.

        With `adapt` the person's adapter is used if it helps; it is trained first (seconds) if comments have changed.
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
        pictures: Sequence[Path | str | bytes],
        *,
        adapt: bool = True,
        progress: Progress = no_progress,
        notice: Notice = no_notice,
    ) -> "list[PictureScore]":
        """Say for each picture (files, folders of them, or bytes) how likely the person likes it, and why.

        Raises `PictureError` for the first that cannot be read. For scores without a vault see
        `scoring.score_pictures`.
        """
        from palate.client.taste import scoring

        asked = scoring.find_pictures(pictures)
        features = scoring.look_at_files(asked, progress)
        evaluator = self.evaluator(adapt=adapt, progress=progress, notice=notice)
        return scoring.name_scores(asked, evaluator, features)

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
        progress: Progress = no_progress,
        notice: Notice = no_notice,
    ) -> "list[Made]":
        """Make `count` pictures of what the prompt says, in the person's taste.

        None stands for the measured default. `pick` candidates are drawn for each picture and the evaluator keeps the
        best; `beside` makes the same seeds without the profile too; `model` is another generator, by folder, hub id with commit, or
        loaded. Raises `OptionError` for an option out of range, `ModelError` for a model that cannot be loaded.
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

    # --- inside -------------------------------------------------------------------------------------------------

    def _edit(self, change_edits: "Callable[[dict[str, Edit]], dict[str, Edit]]") -> None:
        with self.vault.transaction() as change:
            change.put(EDITS, ONLY, profiles.encode_edits(change_edits(profiles.read_edits(change))))
            if change.has(records.ADAPTER, ONLY):
                change.delete(records.ADAPTER, ONLY)

    def _find(self, attribute: str) -> Preference | None:
        profile = self.profile()
        return next((one for one in (*profile.likes, *profile.dislikes) if one.attribute == attribute), None)

    def _name_attribute(self, words: str) -> tuple[str, str]:
        """Return the attribute that these words name, and its category: the vocabulary's, the profile's, or new."""
        words = " ".join(words.split()).lower()
        if not words or len(words) > 100:
            raise OptionError(f"an attribute is named in 1 to 100 characters, not in {len(words)}")
        term = load_vocabulary().find(words)
        if term is not None:
            return term.name, term.category
        for one in self.comments():
            for mention in one.mentions:
                if mention.attribute == words:
                    return words, mention.category
        return words, "other"


def _check_pictures(path: Path | str, lessons: Sequence[Lesson], progress: Progress) -> None:
    from palate.client.eye.pictures import KEPT_SIDE_PIXELS, read_picture

    for number, lesson in enumerate(lessons):
        progress("checking pictures", number, len(lessons))
        try:
            read_picture(lesson.image, least_side=KEPT_SIDE_PIXELS)
        except PictureError as error:
            raise PictureError(f"{path}, entry {number}, 'image': {error}") from None
    progress("checking pictures", len(lessons), len(lessons))
