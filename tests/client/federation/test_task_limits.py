"""A device's own ranges: what is shipped lies inside, what else the wire form allows does not."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palate.client.federation.declined import Declined
from palate.client.federation.task_limits import FARTHEST, MASKING, TRAINING, check_encoder, check_settings
from palate.server.secure_sum.privacy import PlanSettings, Privacy, mask_settings, planned_masks
from palate.shared.encoder import SHARED_SHAPES, load_encoder
from palate.shared.reasons import DeclineReason
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.update import LocalSettings

ROOT = Path(__file__).resolve().parents[3]
OWN = load_encoder()


def refusal(settings: LocalSettings, masks: MaskSettings | None = None) -> DeclineReason:
    with pytest.raises(Declined) as caught:
        check_settings(settings, masks)
    return caught.value.reason


def test_the_shipped_settings_are_taken() -> None:
    check_settings(LocalSettings())
    files = [*ROOT.glob("docs/*.toml"), *ROOT.glob("simulations/experiments/*.toml")]
    locals_ = [found["local"] for path in files if "local" in (found := tomllib.loads(path.read_text()))]
    assert locals_
    for one in locals_:
        check_settings(LocalSettings(**one))
    for path in ROOT.glob("docs/*.toml"):
        found = tomllib.loads(path.read_text())
        private = found["privacy"]
        plan = private.pop("plan", None)
        privacy = Privacy(**private, plan=PlanSettings(**plan) if plan else None)
        make = planned_masks if plan else None
        if make is not None:
            check_settings(LocalSettings(), planned_masks(privacy, least=810, most=900)[0])
        else:
            check_settings(LocalSettings(), mask_settings(privacy, privacy.clip, least=810, most=900))
    for devices in (2, 30, 1_000):
        check_settings(LocalSettings(), mask_settings(Privacy(), 0.15, least=devices, most=devices))


@pytest.mark.parametrize("name", TRAINING)
def test_no_setting_of_training_goes_beyond_its_range(name: str) -> None:
    high = TRAINING[name][1]
    check_settings(replace(LocalSettings(), **{name: type(getattr(LocalSettings(), name))(high)}))
    limits = {"steps": 11, "learning_rate": 0.51, "proximal": 5.1, "alignment": 2.1}
    if name in limits:  # the wire form has no wider range for the query share
        assert refusal(replace(LocalSettings(), **{name: limits[name]})) is DeclineReason.SETTINGS_REFUSED


@pytest.mark.parametrize(
    "masks",
    [
        MaskSettings(clip=1e-4, step=1e-6),
        MaskSettings(clip=26.0),
        MaskSettings(ring_bits=3),
        MaskSettings(clip=0.01, step=0.02),
    ],
    ids=["a tiny clip", "a huge clip", "a narrow ring", "less than a level"],
)
def test_no_setting_of_masks_goes_beyond_its_range(masks: MaskSettings) -> None:
    assert set(MASKING) <= set(vars(masks))
    assert refusal(LocalSettings(), masks) is DeclineReason.SETTINGS_REFUSED


@pytest.mark.parametrize("name", SHARED_SHAPES)
def test_an_encoder_is_followed_as_far_as_rounds_take_it_and_no_farther(name: str) -> None:
    check_encoder(OWN, OWN)
    for length, taken in ((0.99, True), (1.01, False)):
        step = np.zeros(SHARED_SHAPES[name], np.float32)
        step.flat[0] = length * FARTHEST[name]
        other = OWN.with_shared({**OWN.shared(), name: OWN.tensors[name] + step})
        if taken:
            check_encoder(other, OWN)
        else:
            with pytest.raises(Declined) as caught:
                check_encoder(other, OWN)
            assert caught.value.reason is DeclineReason.ENCODER_TOO_LARGE
