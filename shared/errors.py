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
    └── StorageError             the disk is full or cannot be written
"""


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


class StorageError(PalateError):
    """The disk is full or cannot be written."""
