"""Patches: where they come from, and that each hangs on its number alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hatvid.errors import InputError
from hatvid.research.matlab_resize import imresize
from hatvid.research.pairs import read_pixels
from hatvid.research.patches import Patches, batches
from hatvid.research.recipe import Recipe
from hatvid.research.recipe_file import read_recipe
from hatvid.research.training_pictures import TrainingPictures, gradient

Write = Callable[..., Path]

STILL = "augment = { flips = false, rotations = false }"


def of(recipe: Recipe, **given: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    options = {"first": 0, "last": 3, "size": 4, "rank": 0, "world": 1, "workers": 0}
    return [tuple(b) for b in batches(Patches(recipe, 0), **options | given, pinned=False)]  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_pair_is_cut_from_the_whole_pictures(write_recipe: Write, scale: int) -> None:
    """The small patch is that of the whole picture's reduction, border and all."""
    recipe = read_recipe(write_recipe("r.toml", {"stage": STILL, "batch": 8}, scale=scale))
    wholes = []
    for path in sorted(recipe.path("pictures").rglob("*.png")):
        pixels = read_pixels(path)
        rows, columns = pixels.shape[0] // scale, pixels.shape[1] // scale
        large = pixels[: rows * scale, : columns * scale]
        wholes.append((imresize(large, rows, columns), large))
    for small, large in (pair for batch in of(recipe, size=8) for pair in zip(*batch, strict=True)):
        a, b = (side.numpy().transpose(1, 2, 0) for side in (small, large))
        assert (a.shape, b.shape) == ((16, 16, 3), (16 * scale, 16 * scale, 3))
        places = [
            (reduced, top, left)
            for reduced, whole in wholes
            for top in range(reduced.shape[0] - 15)
            for left in range(reduced.shape[1] - 15)
            if (whole[top * scale, left * scale : (left + 16) * scale] == b[0]).all()
        ]
        ((reduced, top, left),) = places
        wanted = reduced[top : top + 16, left : left + 16].astype(int)
        # Halves may be rounded to the other side: positions count from another origin.
        assert np.abs(a - wanted).max() <= 1
        assert (a != wanted).mean() < 0.002


def test_a_patch_hangs_on_its_number_alone(write_recipe: Write) -> None:
    noise = 'degradation = [{ kind = "bicubic" }, { kind = "noise", sigma = [0, 9] }]'
    recipe = read_recipe(write_recipe("r.toml", {"stage": noise, "iterations": 9}))
    whole, late = of(recipe, last=4), of(recipe, first=2, last=4)
    for side in (0, 1):
        assert torch.equal(whole[2][side], late[0][side])
        assert torch.equal(whole[3][side], late[1][side])
        assert not torch.equal(whole[0][side], whole[1][side])
        # Two processes get the batch that one would get, shared out.
        parts = [of(recipe, rank=rank, world=2)[1][side] for rank in (0, 1)]
        assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole[1][side])


def test_patches_beyond_the_stage_are_those_of_later_iterations(write_recipe: Write) -> None:
    recipe = read_recipe(write_recipe("r.toml", {"iterations": 3, "batch": 4}))
    whole, part = Patches(recipe, 0).beyond("main", 6)
    later = of(recipe, first=3, last=5)
    for side in (0, 1):
        assert torch.equal(whole[side], later[0][side])
        assert torch.equal(part[side], later[1][side][:2])


def test_other_processes_make_the_same(write_recipe: Write) -> None:
    recipe = read_recipe(write_recipe())
    for own, theirs in zip(of(recipe), of(recipe, workers=1), strict=True):
        assert torch.equal(own[0], theirs[0])
        assert torch.equal(own[1], theirs[1])
    (recipe.path("pictures") / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        of(recipe)


def test_what_is_damaged_inside_is_told_from_another_process(write_recipe: Write) -> None:
    recipe = read_recipe(write_recipe())
    for path in recipe.path("pictures").rglob("*.png"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
    with pytest.raises(InputError, match=r"^\S+\.png cannot be read as a picture .*whole copy$"):
        of(recipe, workers=1)


def test_pictures_are_drawn_as_asked(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe())
    flat = Image.new("RGB", (128, 128), (9, 9, 9))
    flat.save(tmp_path / "pictures" / "d.png")
    data = recipe.stage[0].data
    drawn = {}
    for how in ("pictures", "pixels", "gradient"):
        found = TrainingPictures(recipe, data.model_copy(update={"draw": how}), 32)
        names = [Path(found.shots[found.pick((k + 0.5) / 1000)].name).name for k in range(1000)]
        drawn[how] = names.count("d.png") / 1000
    assert drawn["pictures"] == pytest.approx(1 / 4, abs=0.002)
    others = 64 * 80 + 66 * 65 + 90 * 64
    assert drawn["pixels"] == pytest.approx(128**2 / (128**2 + others), abs=0.002)
    steep = [gradient(read_pixels(p)) for p in sorted((tmp_path / "pictures").rglob("*.png"))]
    assert sorted(steep)[0] == 0
    weights = np.minimum(steep, 25) + 2
    assert drawn["gradient"] == pytest.approx(2 / weights.sum(), abs=0.002)


def test_whose_turn_it_is_says_nothing_of_the_pictures(write_recipe: Write) -> None:
    task = '\n[[stage.task]]\nname = "{}"\nscale = 2\n'
    path = write_recipe()
    path.write_text(path.read_text() + "".join(map(task.format, "ab")))
    patches = Patches(read_recipe(path), 0)
    drawn: dict[str, list[float]] = {"a": [], "b": []}
    patches.pictures.pick = lambda number: drawn[name].append(number) or 0  # type: ignore[method-assign, func-returns-value]
    for iteration in range(400):
        name = patches.task(iteration).name
        patches[iteration, 0]
    for numbers in drawn.values():
        assert len(numbers) > 150
        assert 0.4 < sum(number < 0.5 for number in numbers) / len(numbers) < 0.6


def test_gradient_of_a_ramp() -> None:
    ramp = (np.arange(10)[:, None] * 3 + np.arange(12) * 5).astype(np.uint8)
    assert gradient(np.dstack([ramp] * 3)) == pytest.approx(8)


def test_memory_for_pictures_is_bounded(write_recipe: Write) -> None:
    recipe = read_recipe(write_recipe("r.toml", run="cache = 0"))
    found = TrainingPictures(recipe, recipe.stage[0].data, 32)
    assert found.read(0) is not found.read(0)
    kept = TrainingPictures(read_recipe(write_recipe()), recipe.stage[0].data, 32)
    assert kept.read(0) is kept.read(0)


def test_frames_of_a_video_and_a_reduction(write_recipe: Write, tmp_path: Path) -> None:
    clip = Path(__file__).parents[1] / "data" / "bunny_320x180.mp4"
    path = write_recipe()
    old = '{ pictures = "pictures" }'
    new = f'{{ video = "{clip}", frames = 3, reduce = 2 }}, {{ pictures = "pictures", reduce = 2 }}'
    path.write_text(path.read_text().replace(old, new))
    recipe = read_recipe(path)
    found = TrainingPictures(recipe, recipe.stage[0].data, 32)
    sizes = [(shot.height, shot.width) for shot in found.shots]
    assert sizes == [(90, 160)] * 3 + [(32, 40), (33, 32), (45, 32)]
    frames = [found.read(number) for number in range(3)]
    assert all(frame.shape == (90, 160, 3) for frame in frames)
    assert not (frames[0] == frames[2]).all()
    whole = read_pixels(tmp_path / "pictures" / "a.png")
    np.testing.assert_array_equal(found.read(3), imresize(whole, 32, 40, kernel="lanczos"))


def test_too_small_pictures(write_recipe: Write, tmp_path: Path) -> None:
    Image.new("RGB", (31, 99)).save(tmp_path / "pictures" / "thin.png")
    recipe = read_recipe(write_recipe())
    assert Patches(recipe, 0).pictures.left_out == 1
    large = read_recipe(write_recipe("r.toml", scale=8))
    with pytest.raises(InputError, match=r"as large as a patch of 128x128 .*\(the largest of 4"):
        Patches(large, 0)


def test_no_pictures(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe())
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"there is no folder .*put the pictures there"):
        Patches(recipe, 0)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match="holds no PNG, JPEG or WebP"):
        Patches(recipe, 0)
