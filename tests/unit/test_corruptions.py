"""The 15 corruptions at 5 severities."""

from __future__ import annotations

import numpy as np
import pytest

from services.evaluation.corruption_fields import cloud, convolved, disk, gaussian, line, moved, plasma, zoomed
from services.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from tests.unit.pictures import difference, noise


def photograph(seed: int, side: int = 96) -> np.ndarray:
    return np.asarray(noise(side, side, seed))


def test_there_are_fifteen() -> None:
    assert list(CORRUPTIONS) == [
        *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg"),
    ]


@pytest.mark.parametrize("name", CORRUPTIONS)
class TestEach:
    def test_a_picture_comes_out(self, name: str) -> None:
        for side in (16, 61, 96):
            original = photograph(1, side)
            before = original.copy()
            made = corrupt(original, name, 3)
            assert (made.shape, made.dtype) == ((side, side, 3), np.uint8)
            assert difference(made, original).mean() > 0.5
            np.testing.assert_array_equal(original, before)

    def test_the_same_for_the_same_seed(self, name: str) -> None:
        original = photograph(2)
        np.testing.assert_array_equal(corrupt(original, name, 4, seed=7), corrupt(original, name, 4, seed=7))

    def test_severity_grows(self, name: str) -> None:
        pictures = [photograph(seed) for seed in range(6)]
        distances = [
            np.mean([difference(corrupt(p, name, severity, seed), p).mean() for seed, p in enumerate(pictures)])
            for severity in SEVERITIES
        ]
        assert distances == sorted(distances)
        assert distances[-1] > 1.15 * distances[0]

    def test_black_and_white_are_no_trouble(self, name: str) -> None:
        for value in (0, 255):
            flat = np.full((48, 48, 3), value, np.uint8)
            assert corrupt(flat, name, 5).dtype == np.uint8


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "glass_blur", "snow", "frost", "fog"])
def test_another_seed_is_another_picture(name: str) -> None:
    original = photograph(3)
    assert difference(corrupt(original, name, 3, 1), corrupt(original, name, 3, 2)).mean() > 0.3


def test_what_is_wrong_is_refused() -> None:
    original = photograph(1)
    for severity in (0, 6, -1):
        with pytest.raises(ValueError, match="severity is 1 to 5"):
            corrupt(original, "fog", severity)
    with pytest.raises(ValueError, match="no corruption 'rain'"):
        corrupt(original, "rain", 1)
    with pytest.raises(ValueError, match="uint8"):
        corrupt(original.astype(np.float32), "fog", 1)
    with pytest.raises(ValueError, match=r"\[S, S, 3\]"):
        corrupt(original[:50], "fog", 1)
    with pytest.raises(ValueError, match="at least 16"):
        corrupt(original[:15, :15], "fog", 1)


class TestFields:
    @pytest.mark.parametrize("kernel", [gaussian(1.3), disk(4), line(9, 30)])
    def test_a_point_becomes_the_kernel_where_it_was(self, kernel: np.ndarray) -> None:
        assert kernel.sum() == pytest.approx(1)
        point = np.zeros((41, 41))
        point[20, 20] = 1
        pad = len(kernel) // 2
        blurred = convolved(point, kernel)
        np.testing.assert_allclose(blurred[20 - pad : 21 + pad, 20 - pad : 21 + pad], kernel, atol=1e-12)
        assert blurred.sum() == pytest.approx(1)

    def test_a_disk_is_round_even_and_as_large_as_it_says(self) -> None:
        kernel = disk(6)
        y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
        far = np.hypot(x, y)
        assert kernel[far > 7.5].max(initial=0) == 0
        inner = kernel[far < 4.5]
        assert inner.min() > 0.8 * inner.max()
        assert inner.mean() == pytest.approx(1 / (np.pi * 36), rel=0.1)
        np.testing.assert_allclose(kernel, kernel.T, atol=1e-12)
        # less than a pixel, and still not sharp
        assert 0.5 < disk(0.3).max() < 0.95

    def test_a_flat_picture_stays_flat_up_to_its_edges(self) -> None:
        flat = np.full((40, 40, 3), 0.3)
        np.testing.assert_allclose(convolved(flat, disk(5)), 0.3)
        np.testing.assert_allclose(zoomed(flat, 1.5), 0.3, atol=1e-6)

    def test_moved(self) -> None:
        picture = np.random.default_rng(0).random((20, 20, 3))
        still, one = np.zeros((20, 20)), np.ones((20, 20))
        np.testing.assert_allclose(moved(picture, still, still), picture)
        np.testing.assert_allclose(moved(picture, one, still)[:, :-1], picture[:, 1:])
        np.testing.assert_allclose(moved(picture, still, one / 2)[:-1], (picture[1:] + picture[:-1]) / 2)

    def test_clouds_are_smoother_the_steeper_the_spectrum(self) -> None:
        rough, smooth = (cloud(64, power, np.random.default_rng(1)) for power in (1.0, 4.0))
        assert rough.min() == smooth.min() == 0
        assert np.abs(np.diff(smooth)).mean() < 0.3 * np.abs(np.diff(rough)).mean()

    def test_plasma_is_smoother_the_faster_it_decays_and_the_same_at_every_side(self) -> None:
        rough, smooth = (plasma(224, decay, np.random.default_rng(1)) for decay in (1.4, 2.0))
        assert 0 <= smooth.min() < 0.2
        assert 0.8 < smooth.max() <= 1
        assert np.abs(np.diff(smooth)).mean() < 0.5 * np.abs(np.diff(rough)).mean()
        small = plasma(56, 2.0, np.random.default_rng(1))
        np.testing.assert_allclose(small, smooth.reshape(56, 4, 56, 4).mean(axis=(1, 3)), atol=0.02)
