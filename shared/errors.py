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
    ├── MaskError                a masked round that is refused, or cannot be finished
    ├── ReleaseError             a release of the encoder that this device must not take over
    ├── InvitationError          an invitation that is not signed by the key that is trusted
    ├── FederationError          a federation's server cannot be reached, or does not take this device
    ├── PrivacyError             how much privacy the rounds of training have spent
    │   ├── PrivacyBudgetError   a round would spend more than the budget
    │   └── LedgerDamagedError   a privacy ledger that was changed, cut short, forked, or is none
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

ReleaseReason = Literal[
    "size",
    "magic",
    "kind",
    "version",
    "damaged",
    "number",
    "gap",
    "chain",
    "fork",
    "rollback",
    "empty",
    "unsigned",
    "signature",
    "key",
    "parent",
    "shapes",
    "fixed",
    "backbone",
    "encoder",
    "norm",
]
"""Why a release is refused, in one word, for counting."""

MaskReason = Literal[
    "size",
    "magic",
    "kind",
    "version",
    "damaged",
    "shapes",
    "settings",
    "number",
    "hash",
    "context",
    "roster",
    "sorted",
    "duplicate",
    "absent",
    "few",
    "many",
    "key",
    "signature",
    "certificate",
    "identity",
    "sets",
    "shares",
    "padding",
    "order",
]
"""Why a message of a masked round is refused, or the round fails, in one word, for counting."""


InvitationReason = Literal["size", "magic", "kind", "version", "key", "expired", "signature"]
"""Why a signed invitation is refused, in one word, for counting."""


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

    `reason` is one word of a fixed list, so refusals can be counted without keeping anything of what was
    refused:

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
        """Take the line for people and the word for counting."""
        super().__init__(message)
        self.reason: UpdateReason = reason


class ReleaseError(PalateError):
    """A release of the encoder that a device must not take over.

    `reason` is one word of a fixed list:

        size       too long, cut short, or going on after its end
        magic      not of Palate
        kind       another message, or an entry of an unknown kind
        version    of another version of the form
        damaged    its checksum does not fit
        number     a value outside its range, or written in another way than the one
        gap        an entry or a release is left out, or stands out of order
        chain      an entry does not continue the one before it
        fork       the log tells another story than the one that was accepted before
        rollback   older than what was accepted before, or an earlier encoder under a new number
        empty      the log holds no release
        unsigned   a signature is missing
        signature  a signature is not of the key that was in force
        key        the log is not of the pinned key, or no key is pinned
        parent     not grown from the release before it
        shapes     of an encoder with other tensors
        fixed      with other fixed tensors than the ones installed here
        backbone   trained on another backbone than the one installed here
        encoder    the file is not the encoder that its card speaks of
        norm       the encoder's weights are out of bounds
    """

    def __init__(self, message: str, reason: ReleaseReason) -> None:
        """Take the line for people and the word for counting."""
        super().__init__(message)
        self.reason: ReleaseReason = reason


class MaskError(PalateError):
    """A message of a masked round that is refused, or a masked round that cannot be finished.

    `reason` is one word of a fixed list:

        size         not the length that it must have
        magic        not of Palate's federation
        kind         another message than the one that is due
        version      of another version of the wire form
        damaged      its checksum does not fit
        shapes       of an encoder with other tensors
        settings     settings outside their range, or not those of the invitation
        number       a number outside its range
        hash         not a SHA-256 in hexadecimal
        context      of another invitation: another round, model or settings
        roster       of another roster, or of other devices that are alive
        sorted       a roster that is not in order
        duplicate    a key that is there twice
        absent       this device is not among those named
        few          too few devices: below somebody's minimum, or too few to share a secret
        many         more devices than a masked round can have
        key          not a usable public key: not canonical, or of small order
        signature    not signed by the key that it names
        certificate  not from the registrar that is trusted here
        identity     from another device than the one that it is handed in for
        sets         devices that are named in two places, or in none
        shares       shares that do not give the secret
        padding      bits set that have no meaning
        order        not due now: too early, too late, or a second time
    """

    def __init__(self, message: str, reason: MaskReason) -> None:
        """Take the line for people and the word for counting."""
        super().__init__(message)
        self.reason: MaskReason = reason


class InvitationError(PalateError):
    """An invitation that is not signed as it must be.

    `reason` is one word of a fixed list:

        size       cut short, or without a delegation
        magic      not of Palate
        kind       not signed at all, or another message
        version    of another version of the form
        key        signed for another release key than the one that is kept here
        expired    the round key's time is over, or further off than is believed
        signature  a signature is not of the key that is named
    """

    def __init__(self, message: str, reason: InvitationReason) -> None:
        """Take the line for people and the word for counting."""
        super().__init__(message)
        self.reason: InvitationReason = reason


class FederationError(PalateError):
    """A federation's server cannot be reached, or does not take this device."""


class PrivacyError(PalateError):
    """The count of what the rounds of training spend of people's privacy stands in the way."""


class PrivacyBudgetError(PrivacyError):
    """A round would spend more privacy than the budget allows, so it does not happen."""


class LedgerDamagedError(PrivacyError):
    """A privacy ledger was changed, cut short, forked, or is none."""


class StorageError(PalateError):
    """The disk is full or cannot be written."""
