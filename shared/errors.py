"""Every failure that a person can cause, as one tree.

Each error is one line that names the argument, its value, the rule, and where possible the next step.
The command line prints that line and ends with a non-zero status; nothing else is caught there.

    PalateError
    ├── InputError               what was given cannot be used
    │   ├── PictureError         not a picture, damaged, or too large
    │   ├── CommentError         empty, too long, or in a language that cannot be read
    │   ├── FileFormatError      a JSON or TOML file with a missing or unknown key
    │   └── OptionError          an option outside its range
    ├── VaultError               the sealed store
    │   ├── VaultMissingError    there is none here yet
    │   ├── WrongPassphraseError the passphrase does not open it
    │   ├── VaultDamagedError    changed, cut short, rolled back, or not a vault
    │   └── VaultBusyError       another process holds it
    ├── ExtractionError          a model's answer is not what was asked of it
    ├── ModelError               a model that cannot be loaded or does not fit
    ├── UpdateError              what came over the wire is not exactly what was agreed on
    ├── FederationError          a federation's server cannot be reached, or does not take this device
    └── StorageError             the disk is full or cannot be written
"""

from typing import Literal

UpdateReason = Literal[
    "size",
    "magic",
    "kind",
    "version",
    "damaged",
    "shapes",
    "round",
    "base",
    "fixed",
    "settings",
    "tensors",
    "finite",
    "norm",
    "number",
    "hash",
]
"""Why a task or an update is refused, in one word, for counting."""


class PalateError(Exception):
    """Anything that a person can cause; its text is one friendly line."""


class InputError(PalateError):
    """What was given cannot be used."""


class PictureError(InputError):
    """Not a picture, damaged, or too large."""


class CommentError(InputError):
    """A comment that is empty, too long, or holds no words."""


class FileFormatError(InputError):
    """A file whose content does not have the documented form."""


class OptionError(InputError):
    """An option outside its range."""


class VaultError(PalateError):
    """The sealed store cannot be used."""


class VaultMissingError(VaultError):
    """There is no vault at the given place."""


class WrongPassphraseError(VaultError):
    """The passphrase does not open the vault."""


class VaultDamagedError(VaultError):
    """The vault was changed, cut short, rolled back, or is not a vault."""


class VaultBusyError(VaultError):
    """Another process holds the vault."""


class ExtractionError(PalateError):
    """A model's answer is not what was asked of it."""


class ModelError(PalateError):
    """A model that cannot be loaded, or does not fit."""


class UpdateError(PalateError):
    """A task or an update that is not exactly what device and server agreed on.

    `reason` is one word of a fixed list, so refusals can be counted without keeping anything of what was refused:

        size      not the one length that a task or an update has
        magic     not of Palate's federation
        kind      a task where an update is due, or the other way round
        version   of another version of the wire form
        damaged   its checksum does not fit
        shapes    of an encoder with other tensors
        round     of another round
        base      the change of another encoder than the one that was sent out
        fixed     for a release with other fixed tensors than the one installed here
        settings  training settings outside their range
        tensors   a name, shape or type that is not the declared one
        finite    holds NaN or infinity
        norm      longer than allowed
        number    round, release or seed outside its range
        hash      not a SHA-256 in hexadecimal
    """

    def __init__(self, message: str, reason: UpdateReason) -> None:
        """Takes the line for people and the word for counting."""
        super().__init__(message)
        self.reason: UpdateReason = reason


class FederationError(PalateError):
    """A federation's server cannot be reached, or does not take this device."""


class StorageError(PalateError):
    """The disk is full or cannot be written."""
