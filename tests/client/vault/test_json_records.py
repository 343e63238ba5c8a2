"""JSON records: what was written is read again, and anything else is one line."""

import math

import pytest

from palate.client.vault.json_records import decode_json, encode_json, readable
from palate.shared.errors import OptionError, StorageError, VaultDamagedError


def test_a_record_is_read_again_without_its_version() -> None:
    data = encode_json(3, {"kept": [1, 2.5, "ä"]})
    assert data == b'{"version": 3, "kept": [1, 2.5, "\\u00e4"]}'
    assert decode_json(data, 3) == {"kept": [1, 2.5, "ä"]}


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"{", b"7", b"[]", b"{}", b'{"version": 2}', b'{"version": "1"}', b'{"version": null}'],
)
def test_another_version_or_another_form_is_one_line(data: bytes) -> None:
    line = r"^the list cannot be read by this version of Palate; begin anew$"
    with pytest.raises(VaultDamagedError, match=line), readable("the list", "begin anew"):
        decode_json(data, 1)


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("a"), AttributeError("a"), OptionError("a")])
def test_what_decoding_raises_is_one_line(error: Exception) -> None:
    line = r"^the list cannot be read by this version of Palate$"
    with pytest.raises(VaultDamagedError, match=line), readable("the list"):
        raise error


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(StorageError), readable("the list"):
        raise StorageError("the disk is full")


def test_a_number_that_is_not_finite_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode_json(1, {"norm": math.nan})
