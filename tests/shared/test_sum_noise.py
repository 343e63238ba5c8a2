"""Noise by how many devices add theirs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.shared.accounting import noise_multiplier
from palate.shared.sum_noise import SumNoise, honest_devices, sum_noise


def test_a_share_of_the_devices_is_at_least_a_person_alone() -> None:
    assert [honest_devices(share, 10) for share in (0.0, 0.09, 0.1, 0.5, 0.55, 1.0)] == [1, 1, 1, 5, 5, 10]
    assert honest_devices(0.3, 10) == 3  # though 0.3 times 10 is a little less in binary
    assert honest_devices(0.5, 1) == 1


def test_a_sum_of_a_hundred_has_ten_times_the_noise_of_one() -> None:
    sure = sum_noise(20.0, devices=100, sensitivity=50.0, dimension=4_097, honest_share=0.25)
    assert (sure.counted, sure.all_add, sure.alone) == pytest.approx((2.0, 4.0, 0.4))
    assert SumNoise.of_one(3) == SumNoise(3.0, 3.0, 3.0)


@given(st.floats(0.0, 3.0), st.integers(1, 1000), st.floats(0.0, 1.0))
def test_each_figure_is_at_most_what_the_accountant_allows(noise: float, devices: int, share: float) -> None:
    sure = sum_noise(noise, devices=devices, sensitivity=9.0, dimension=4_097, honest_share=share)
    alone, counted, all_add = (
        noise_multiplier(noise, devices=devices, sensitivity=9.0, dimension=4_097, honest_share=one)
        for one in (0.0, share, 1.0)
    )
    assert sure.alone == alone <= sure.counted <= sure.all_add
    assert sure.counted == max(alone, counted)
    assert sure.all_add == max(alone, counted, all_add)
