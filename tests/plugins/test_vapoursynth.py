"""The VapourSynth filter gives the pixels of Upscaler, once each, and says what it cannot take."""

from __future__ import annotations

import ctypes
import gc
import random
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest
import torch
import vapoursynth as vs
from hatvid_vs import loading, upscale
from torch import Tensor

import hatvid
from hatvid.engine.eager import EagerEngine

FRAMES = 10
HEIGHT, WIDTH = 20, 36
EAGER: dict[str, Any] = {
    "engine": "eager",
    "precision": "fp32",
    "threads": 1,
    "reuse": "off",  # what is not computed cannot be counted
}

ClipOf = Callable[..., vs.VideoNode]
PlanesIn = Callable[[vs.VideoFrame], list[Tensor]]


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(FRAMES, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def clip(pictures: Tensor, clip_of: ClipOf) -> vs.VideoNode:
    return clip_of(pictures.unbind(1), vs.RGBS)


@pytest.fixture(scope="module")
def expected(pictures: Tensor, network: str) -> Callable[..., list[Tensor]]:
    """What Upscaler makes of the pictures, so many at a time."""

    def larger(batch: int, **options: Any) -> list[Tensor]:
        given = EAGER | {"tile": 0} | options
        with hatvid.Upscaler.from_checkpoint(network, batch=batch, **given) as upscaler:
            return [frame for part in pictures.split(batch) for frame in upscaler(part)]

    return larger


def orders(length: int) -> dict[str, list[int]]:
    shuffled = list(range(length)) * 2
    random.Random(7).shuffle(shuffled)
    return {
        "forward": list(range(length)),
        "backward": list(reversed(range(length))),
        "random": shuffled,
    }


# -- Pixels, and what they take. ----------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8], ids=["1-thread", "8-threads"])
@pytest.mark.parametrize(("batch", "streams"), [(1, 1), (4, 1), (4, 2)])
def test_pixels_are_those_of_upscaler_in_any_order(
    clip: vs.VideoNode,
    network: str,
    expected: Callable[..., list[Tensor]],
    planes_in: PlanesIn,
    threads: Callable[[int], None],
    engine_calls: list[int],
    batch: int,
    streams: int,
    count: int,
) -> None:
    threads(count)
    wanted = expected(batch)
    for name, order in orders(FRAMES).items():
        larger = upscale(clip, model=network, tile=0, batch=batch, num_streams=streams, **EAGER)
        engine_calls.clear()
        for number in order:
            with larger.get_frame(number) as frame:
                assert frame.props["Number"] == number
                assert torch.equal(torch.stack(planes_in(frame)), wanted[number]), (name, number)
        assert set(engine_calls) == {batch}
        if name != "random":
            assert len(engine_calls) == -(-FRAMES // batch)


@pytest.mark.parametrize("batch", [1, 4])
def test_what_was_computed_is_not_computed_again_in_any_order(
    clip: vs.VideoNode,
    network: str,
    expected: Callable[..., list[Tensor]],
    planes_in: PlanesIn,
    engine_calls: list[int],
    batch: int,
) -> None:
    given = EAGER | {"tile": 0, "batch": batch, "reuse": "auto"}
    wanted = expected(batch)
    twice = upscale(clip + clip[::-1] + clip, model=network, **given)
    order = list(range(3 * FRAMES))
    random.Random(5).shuffle(order)
    engine_calls.clear()
    numbers = set()
    for number in order:
        with twice.get_frame(number) as frame:
            shown = int(frame.props["Number"])
            numbers.add(shown)
            assert torch.equal(torch.stack(planes_in(frame)), wanted[shown])
    assert numbers == set(range(FRAMES))
    # Each picture once for each slot of a batch that it comes in, and what tries the engine.
    assert len(engine_calls) <= FRAMES * batch + 3


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize(("batch", "streams"), [(1, 1), (1, 3), (4, 1), (3, 2), (64, 1)])
def test_read_ahead_every_batch_is_computed_once(
    clip_of: ClipOf,
    network: str,
    threads: Callable[[int], None],
    engine_calls: list[int],
    batch: int,
    streams: int,
    count: int,
) -> None:
    threads(count)
    length = 50
    asked: list[int] = []

    def note(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        asked.append(n)
        return f

    small = clip_of([torch.rand(length, 16, 16)] * 3, vs.RGBS)
    noted = small.std.ModifyFrame(small, note)
    larger = upscale(noted, model=network, tile=0, batch=batch, num_streams=streams, **EAGER)
    engine_calls.clear()
    for number, frame in enumerate(larger.frames(prefetch=2 * count)):
        assert frame.props["Number"] == number
    assert len(engine_calls) == -(-length // batch)
    # Nor is the source asked twice for a frame, or for one behind its end.
    assert sorted(asked) == list(range(length))


def test_a_short_batch_asks_for_its_own_frames_only(clip_of: ClipOf, network: str) -> None:
    asked: list[int] = []

    def note(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        asked.append(n)
        return f

    small = clip_of([torch.rand(FRAMES, 16, 16)] * 3, vs.RGBS)
    for streams in (1, 2):
        noted = small.std.ModifyFrame(small, note)
        asked.clear()
        larger = upscale(noted, model=network, tile=0, batch=4, num_streams=streams, **EAGER)
        assert larger.get_frame(FRAMES - 1).props["Number"] == FRAMES - 1
        assert sorted(asked) == [8, 9]


def test_tiles_fill_the_batch_as_on_the_command_line(
    clip: vs.VideoNode,
    network: str,
    expected: Callable[..., list[Tensor]],
    planes_in: PlanesIn,
    engine_calls: list[int],
) -> None:
    tiles = {"tile": 16, "overlap": 0}
    with hatvid.Upscaler.from_checkpoint(network, **EAGER, **tiles) as upscaler:
        each = upscaler.describe(HEIGHT, WIDTH).tiles
    wanted = expected(2 * each, **tiles)
    larger = upscale(clip, model=network, batch=2 * each, **EAGER, **tiles)
    engine_calls.clear()
    for number, frame in enumerate(larger.frames()):
        assert torch.equal(torch.stack(planes_in(frame)), wanted[number])
    assert engine_calls == [2 * each] * (FRAMES // 2)


def test_half_floats_stay_so(
    pictures: Tensor, clip_of: ClipOf, planes_in: PlanesIn, network: str
) -> None:
    halves = pictures[:1].half()
    larger = upscale(clip_of(halves.unbind(1), vs.RGBH), model=network, tile=0, **EAGER)
    assert larger.format.id == vs.RGBH
    with hatvid.Upscaler.from_checkpoint(network, tile=0, **EAGER) as upscaler:
        wanted = upscaler(halves.float()).half()[0]
    assert torch.equal(torch.stack(planes_in(larger.get_frame(0))), wanted)


def test_a_size_is_resampled_once_from_all_that_the_network_gives(
    clip: vs.VideoNode,
    network: str,
    expected: Callable[..., list[Tensor]],
    planes_in: PlanesIn,
) -> None:
    larger = upscale(clip, model=network, tile=0, height=30, **EAGER)
    assert (larger.width, larger.height) == (54, 30)
    wanted = torch.nn.functional.interpolate(
        expected(1)[0][None], size=(30, 54), mode="bicubic", antialias=True
    )[0]
    assert torch.equal(torch.stack(planes_in(larger.get_frame(0))), wanted)
    small = upscale(clip, width=60)
    assert (small.width, small.height) == (60, 34)
    assert (upscale(clip).width, upscale(clip, model=network).width) == (4 * WIDTH, 2 * WIDTH)


# -- What goes with the pixels. -----------------------------------------------------------


def test_length_times_and_properties(clip: vs.VideoNode, network: str) -> None:
    slow = clip[:3].std.AssumeFPS(fpsnum=10)
    varying = vs.core.std.Splice([clip[3:5].std.AssumeFPS(fpsnum=25), slow])
    varying = varying.std.SetFrameProps(Kind="it", Some=[1, 2]).std.ClipToProp(
        varying.std.ShufflePlanes(0, vs.GRAY), "_Alpha"
    )
    for batch in (1, 2):
        larger = upscale(varying, model=network, tile=0, batch=batch, **EAGER)
        assert (larger.num_frames, larger.fps, larger.format.id) == (5, varying.fps, vs.RGBS)
        for frame, source in zip(larger.frames(), varying.frames(), strict=True):
            wanted = dict(source.props)
            del wanted["_Alpha"]  # which is of the old size
            assert dict(frame.props) == wanted


@pytest.mark.parametrize(
    ("size", "before", "after"),
    [
        ({}, None, None),
        ({}, (8, 9), (8, 9)),
        ({"width": 2 * WIDTH, "height": 3 * HEIGHT}, (8, 9), (4, 3)),
        ({"width": 2 * WIDTH, "height": 3 * HEIGHT}, None, (3, 2)),
        ({"width": 2 * WIDTH, "height": 3 * HEIGHT}, (0, 1), (3, 2)),
    ],
)
def test_the_picture_keeps_its_shape_on_the_screen(
    clip: vs.VideoNode,
    network: str,
    size: dict[str, int],
    before: tuple[int, int] | None,
    after: tuple[int, int] | None,
) -> None:
    told = clip if before is None else clip.std.SetFrameProps(_SARNum=before[0], _SARDen=before[1])
    props = upscale(told, model=network, tile=0, **size, **EAGER).get_frame(0).props
    assert (props.get("_SARNum"), props.get("_SARDen")) == (after or (None, None))


# -- Clips and options that do not fit. ---------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda clip: clip.resize.Bicubic(format=vs.YUV444PS, matrix=1), r"YUV444PS.*YUV444P16"),
        (lambda clip: clip.resize.Bicubic(format=vs.GRAYS, matrix=1), r"GrayS.*GRAY16"),
        (
            lambda clip: vs.core.std.Splice([clip, clip.std.CropRel(right=2)], mismatch=True),
            "varies; make it constant",
        ),
        (
            lambda clip: vs.core.std.Splice(
                [clip, clip.resize.Bicubic(format=vs.RGB24)], mismatch=True
            ),
            "varies; make it constant",
        ),
    ],
)
def test_clips_that_do_not_fit(
    clip: vs.VideoNode, change: Callable[[vs.VideoNode], vs.VideoNode], says: str
) -> None:
    with pytest.raises(vs.Error, match=rf"^hatvid: .*{says}"):
        upscale(change(clip))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "no-such-model"}, "hatvid models list"),
        ({"model": "there/is/none.pth"}, "check the path"),
        ({"scale": 5}, "choose 2, 3 or 4"),
        ({"tile": 17}, "multiple of 16"),
        ({"batch": 0}, "at least 1"),
        ({"engine": "quick"}, "choose one of auto"),
        ({"precision": "fp8"}, "choose one of auto"),
        ({"device": "cuda0"}, "cuda:N"),
        ({"num_streams": 0}, "choose 1 to"),
        ({"width": 0}, "at least 1"),
        ({"matrix_in_s": "rec709"}, "bt709"),
        ({"range_in_s": "studio"}, "limited"),
        ({"chromaloc_in_s": "middle"}, "center"),
    ],
)
def test_options_that_do_not_fit(clip: vs.VideoNode, options: dict[str, Any], says: str) -> None:
    with pytest.raises(vs.Error, match=rf"^hatvid: .*{re.escape(says)}"):
        upscale(clip, **options)


def test_a_frame_that_is_two_fields_is_refused(clip: vs.VideoNode, network: str) -> None:
    fields = clip.std.SetFieldBased(2)
    larger = upscale(fields, model=network, tile=0, **EAGER)
    with pytest.raises(vs.Error, match=r"hatvid: .*interlaced.*SetFieldBased\(0\)"):
        larger.get_frame(0)
    upscale(fields.std.SetFieldBased(0), model=network, tile=0, **EAGER).get_frame(0)


# -- One network, and no more memory than it takes. ---------------------------------------


def test_one_network_serves_all_filters_and_goes_with_the_last(
    clip: vs.VideoNode, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()  # what other tests left
    loaded: list[weakref.ref[torch.nn.Module]] = []
    load = loading.load_model

    def counted(*arguments: Any) -> Any:
        model = load(*arguments)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(loading, "load_model", counted)
    options: dict[str, Any] = {"model": network, "tile": 0, **EAGER}
    clips = [
        upscale(clip, **options),
        upscale(clip[::2], num_streams=3, **options),  # the same upscaler
        upscale(clip.std.CropRel(right=4), **options),  # of another size
        upscale(clip, batch=2, **options),
    ]
    for each in clips:
        each.get_frame(1)
    assert len(loaded) == 1
    assert len(loading._upscalers) == 3
    del clips, each
    gc.collect()
    assert loaded[0]() is None
    assert not loading._upscalers


def resident() -> int:
    """Bytes of memory, without what was freed and is kept for the next one to ask."""
    with suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def test_memory_is_flat_over_1000_frames(
    clip_of: ClipOf, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """800 larger frames that stayed would be 600 MiB, and the frames they come from 150."""

    def repeated(self: EagerEngine, tiles: Tensor) -> Tensor:
        return tiles.repeat_interleave(2, -1).repeat_interleave(2, -2)

    monkeypatch.setattr(EagerEngine, "run", repeated)
    still = clip_of([torch.rand(1, 128, 128)] * 3, vs.RGBS).std.Loop(1000)
    larger = upscale(still, model=network, tile=0, batch=4, num_streams=2, **EAGER)
    used = []
    for number, frame in enumerate(larger.frames(close=True)):
        assert frame.width == 256
        if number in (199, 999):
            used.append(resident())
    assert used[1] - used[0] < 75 << 20


# -- Beside vs-mlrt. ----------------------------------------------------------------------

BESIDE = """
import sys
from pathlib import Path
import hatvid_vs, numpy as np, torch, vapoursynth as vs
from hatvid.jobs.export import export_onnx

export_onnx(Path(sys.argv[1]), scale=2, height=24, width=40, check=False)
blank = vs.core.std.BlankClip(format=vs.RGBS, width=40, height=24, length=1)

def fill(n, f):
    frame = f.copy()
    for plane in range(3):
        np.copyto(np.asarray(frame[plane]), np.random.default_rng(plane).random((24, 40)))
    return frame

clip = blank.std.ModifyFrame(blank, fill)
theirs = vs.core.ov.Model(
    [clip], network_path=sys.argv[1], config=lambda: {"INFERENCE_PRECISION_HINT": "f32"}
)
for engine in ("openvino", "eager"):
    ours = hatvid_vs.upscale(clip, scale=2, engine=engine, precision="fp32", tile=0)
    mine, other = (
        np.stack([np.array(plane) for plane in node.get_frame(0)]) for node in (ours, theirs)
    )
    print(mine.shape, np.abs(mine - other).max() < 1e-5, mine.std() > 0.1)
"""


def test_the_same_network_in_vs_mlrt(tmp_path: Any) -> None:
    """In a program of its own: which OpenVINO was loaded first holds for all of one."""
    done = subprocess.run(
        [sys.executable, "-c", BESIDE, tmp_path / "model.onnx"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "(3, 48, 80) True True\n" * 2), done.stderr
