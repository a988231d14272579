"""Augmentation: crops and flips keep pixels, colours follow HSV."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets.augmentation import (
    Augmentation,
    ColorNumbers,
    augment,
    build_augmentation,
    scale_saturation,
    turn_hue,
)
from tasksets.sampling import AugmentationConfig

KEY = jax.random.key(0)
IMAGES = jax.random.uniform(jax.random.key(1), (200, 6, 6, 3))
CONFIG = AugmentationConfig(1, True, False, True, 0.1, 0.5, 0.2, 0.5)


def test_crops_are_windows_of_the_image_and_every_corner_occurs():
    cropped = np.asarray(augment(Augmentation(crop_amount=2), None, IMAGES, KEY))
    assert cropped.shape == (200, 4, 4, 3)
    corners = set()
    for image, crop in zip(np.asarray(IMAGES), cropped, strict=True):
        found = [
            (i, j)
            for i in range(3)
            for j in range(3)
            if np.array_equal(image[i : i + 4, j : j + 4], crop)
        ]
        assert len(found) == 1
        corners.update(found)
    assert len(corners) == 9


@pytest.mark.parametrize(
    ("field", "axis"), [("flip_left_right", 1), ("flip_up_down", 0)]
)
def test_half_of_the_images_are_flipped_along_the_right_axis(field, axis):
    flipped = augment(Augmentation(**{field: True}), None, IMAGES, KEY)
    num_flipped = 0
    for before, after in zip(np.asarray(IMAGES), np.asarray(flipped), strict=True):
        is_flipped = np.array_equal(np.flip(before, axis), after)
        assert is_flipped or np.array_equal(before, after)
        num_flipped += is_flipped
    assert 70 < num_flipped < 130  # a standard deviation is 7


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 3.0])
def test_saturation_is_scaled_as_in_hsv(factor):
    def by_pixel(rgb):
        h, s, v = colorsys.rgb_to_hsv(*rgb)
        return colorsys.hsv_to_rgb(h, min(s * factor, 1), v)

    image = np.asarray(IMAGES[0])
    expected = np.apply_along_axis(by_pixel, -1, image)
    np.testing.assert_allclose(scale_saturation(IMAGES[0], factor), expected, atol=1e-5)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.3])
def test_hue_is_turned_as_in_hsv(turn):
    def by_pixel(rgb):
        h, s, v = colorsys.rgb_to_hsv(*rgb)
        return colorsys.hsv_to_rgb((h + turn) % 1, s, v)

    image = np.asarray(IMAGES[0])
    expected = np.apply_along_axis(by_pixel, -1, image)
    np.testing.assert_allclose(turn_hue(IMAGES[0], turn), expected, atol=1e-5)


def test_grey_pixels_have_no_colour_to_change():
    grey = jnp.full((2, 2, 3), 0.3)
    np.testing.assert_allclose(turn_hue(grey, 0.3), grey)
    np.testing.assert_allclose(scale_saturation(grey, 2.0), grey)


def test_colours_of_strength_zero_leave_images_alone():
    color = ColorNumbers(*jnp.zeros(4))
    after = augment(Augmentation(color=True), color, IMAGES, KEY)
    np.testing.assert_allclose(after, IMAGES, atol=1e-5)


def test_every_image_is_changed_by_its_own_draw():
    same = jnp.broadcast_to(IMAGES[0], IMAGES.shape)
    color = ColorNumbers(*map(jnp.float32, (0.1, 0.5, 0.2, 0.5)))
    after = augment(Augmentation(color=True), color, same, KEY)
    assert len({image.tobytes() for image in np.asarray(after)}) == 200


def test_colours_are_for_rgb_images_only_and_tables_are_left_alone():
    assert build_augmentation(CONFIG, (8, 8, 3))[1] is not None
    structure, color = build_augmentation(CONFIG, (8, 8, 1))
    assert structure == Augmentation(1, True, False, False) and color is None
    assert build_augmentation(CONFIG, (13,)) == (None, None)


def test_a_cropping_task_has_a_smaller_first_layer():
    # The config of seed 563 crops by two.
    task = tasksets.get("mlp_family/seed563@digits?hidden=4")
    params, batch = task.init(KEY), task.batch("test", KEY)
    assert batch.inputs.shape == (221, 6, 6, 1)
    assert params["layer_0"]["w"].shape == (36, 4)
    assert np.isfinite(task.loss(params, batch, KEY))
