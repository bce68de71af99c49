"""Pictures and numbered sequences, end to end, with a network that repeats pixels."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor, nn

import hatvid
from hatvid.errors import EngineError, InputError, OptionError, OutputError, OutputExistsError
from hatvid.jobs.picture_plan import check_pattern_output, plan_pictures
from hatvid.jobs.progress import Started
from hatvid.jobs.stills import PictureReceipt, place_file, run_pictures
from hatvid.options import EngineOptions, SizeOptions
from hatvid.reuse import Reused


def upscale_picture(
    source: Path,
    output: Path | None,
    upscaler: hatvid.Upscaler,
    *,
    size: SizeOptions | None = None,
    overwrite: bool = False,
    progress: Any = None,
) -> PictureReceipt:
    plan = plan_pictures(source, output, scale=upscaler.scale, overwrite=overwrite)
    return run_pictures(plan, upscaler, size=size, progress=progress)


Array = np.ndarray[Any, Any]


class RepeatPixels(nn.Module):
    """Nearest neighbour, twice as large."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Blur(nn.Module):
    """Twice as large and blurred, with what a network may do besides: noise, an offset."""

    def forward(self, x: Tensor) -> Tensor:
        larger = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return nn.functional.avg_pool2d(larger, 5, 1, 2, count_include_pad=False) + 0.004


class NoNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return RepeatPixels()(x) * float("nan")


def upscaler(network: nn.Module) -> hatvid.Upscaler:
    return hatvid.Upscaler(network, scale=2, engine_options=EngineOptions(engine="eager"))


@pytest.fixture(scope="module")
def repeat() -> hatvid.Upscaler:
    return upscaler(RepeatPixels())


class Told:
    """Progress that writes everything down."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.facts: Started | None = None
        self.events: list[str] = []
        self.there: list[str] = []
        self.folder: Path | None = None
        self.tiles = Reused()

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.events.append("note")

    def started(self, facts: Started) -> None:
        self.facts = facts
        self.events.append("started")

    def advanced(self, frames: int) -> None:
        self.events.append(f"{frames} done")

    def reused(self, tiles: Reused) -> None:
        self.tiles = tiles

    def publishing(self) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.events.append("publishing")
        if self.folder is not None:
            self.there = names(self.folder)


def opened(path: Path) -> Image.Image:
    """What Pillow reads, without leaving the file open."""
    return Image.open(io.BytesIO(path.read_bytes()))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def chunk(kind: bytes, payload: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + payload))
    return struct.pack(">I", len(payload)) + kind + payload + crc


COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def png_of(samples: Array) -> bytes:
    """A PNG by the specification's text alone; (H, W, 1 to 4) of uint8 or uint16."""
    height, width, channels = samples.shape
    header = (width, height, 8 * samples.itemsize, COLOR_TYPES[channels], 0, 0, 0)
    rows = samples.astype(samples.dtype.newbyteorder(">"))
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def samples_of(data: bytes) -> Array:
    """The samples of a PNG by the specification's text alone (section 9, filtering)."""
    at, header, packed = 8, b"", b""
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        kind, payload = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert data[at : at + 12 + length] == chunk(kind, payload)
        header, packed = header or payload, packed + (payload if kind == b"IDAT" else b"")
        at += 12 + length
    width, height, depth, color, *rest = struct.unpack(">IIBBBBB", header)
    assert rest == [0, 0, 0]
    channels = {number: count for count, number in COLOR_TYPES.items()}[color]
    step = channels * depth // 8
    raw = zlib.decompress(packed)
    line = step * width
    assert len(raw) == height * (line + 1)
    before = bytearray(line)
    rows = b""
    for y in range(height):
        start = y * (line + 1)
        row = bytearray(raw[start + 1 : start + 1 + line])
        for x in range(line):
            left, up = row[x - step] if x >= step else 0, before[x]
            corner = before[x - step] if x >= step else 0
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda value: abs(value - guess))
            row[x] = (row[x] + [0, left, up, (left + up) // 2, nearest][raw[start]]) & 255
        rows, before = rows + bytes(row), row
    kind = np.dtype(np.uint8 if depth == 8 else ">u2")
    return np.frombuffer(rows, kind).reshape(height, width, channels)


def noise(channels: int, kind: type[np.unsignedinteger[Any]], seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return random.integers(0, np.iinfo(kind).max + 1, (7, 9, channels)).astype(kind)


def repeated(samples: Array, times: int = 2) -> Array:
    return samples.repeat(times, 0).repeat(times, 1)


def photo(mode: str = "RGB") -> Image.Image:
    """Smooth, so that JPEG changes it little."""
    across, down = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 40))
    planes = [across, down, across * down, 1 - across * down * 0.5]
    used = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    rows = (np.stack(planes[:used], -1) * 255).round().astype(np.uint8)
    return Image.frombytes(mode, (48, 40), rows.tobytes())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_is_repeated_exactly(
    repeat: hatvid.Upscaler, tmp_path: Path, channels: int, kind: type[np.unsignedinteger[Any]]
) -> None:
    samples = noise(channels, kind)
    if channels % 2 == 0:
        samples[:, :, -1] = np.maximum(samples[:, :, -1], 1)
    (tmp_path / "in.png").write_bytes(png_of(samples))
    receipt = upscale_picture(tmp_path / "in.png", None, repeat)
    got = samples_of((tmp_path / "in_x2.png").read_bytes())
    assert np.array_equal(got, repeated(samples))
    assert receipt.output == tmp_path / "in_x2.png"
    assert (receipt.frames, receipt.width, receipt.height) == (1, 18, 14)
    assert receipt.notes == ()
    assert names(tmp_path) == ["in.png", "in_x2.png"]


@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_is_repeated_exactly(
    repeat: hatvid.Upscaler, tmp_path: Path, transparent: bool
) -> None:
    image = Image.new("P", (6, 5))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    image.putdata([i % 4 for i in range(30)])
    options: dict[str, Any] = {"transparency": bytes([255, 128, 9, 7])} if transparent else {}
    image.save(tmp_path / "in.png", **options)
    expected = opened(tmp_path / "in.png").convert("RGBA" if transparent else "RGB")
    receipt = upscale_picture(tmp_path / "in.png", tmp_path / "out.png", repeat)
    assert np.array_equal(np.asarray(opened(tmp_path / "out.png")), repeated(np.asarray(expected)))
    assert receipt.notes == ("the palette becomes RGB",)


def test_profile_and_orientation_go_with_it(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[274] = 6
    photo().save(tmp_path / "in.jpg", quality=95, icc_profile=icc, exif=exif)
    upscale_picture(tmp_path / "in.jpg", None, repeat)
    source, result = opened(tmp_path / "in.jpg"), opened(tmp_path / "in_x2.jpg")
    assert result.size == (96, 80)
    assert result.info["icc_profile"] == icc
    assert result.info["exif"] == source.info["exif"]
    assert result.getexif()[274] == 6
    change = np.asarray(result).astype(int) - repeated(np.asarray(source))
    assert np.abs(change).max() <= 16
    assert np.sqrt((change**2).mean()) < 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (SizeOptions(width=30), (30, 25)),
        (SizeOptions(height=20), (24, 20)),
        (SizeOptions(width=31, height=7), (31, 7)),
    ],
)
def test_a_size_is_met(
    repeat: hatvid.Upscaler, tmp_path: Path, size: SizeOptions, expected: tuple[int, int]
) -> None:
    photo("RGBA").save(tmp_path / "in.png")
    receipt = upscale_picture(tmp_path / "in.png", None, repeat, size=size)
    image = opened(tmp_path / "in_x2.png")
    assert image.size == (receipt.width, receipt.height) == expected
    reference = Image.fromarray(repeated(np.asarray(photo("RGBA"))))
    wanted = np.asarray(reference.resize(expected, Image.Resampling.BICUBIC)).astype(int)
    # Pillow multiplies by alpha; here alpha and colour go apart, and are smooth.
    assert np.abs(np.asarray(image).astype(int) - wanted)[:, :, :3].max() <= 3


def test_color_under_transparent_pixels_does_not_bleed(tmp_path: Path) -> None:
    """A red disc on transparent green: no visible pixel has any green."""
    down, across = np.mgrid[:24, :24]
    inside = (down - 12) ** 2 + (across - 12) ** 2 < 64
    samples = np.zeros((24, 24, 4), np.uint8)
    samples[inside] = (200, 0, 0, 255)
    samples[~inside] = (0, 255, 0, 0)
    (tmp_path / "in.png").write_bytes(png_of(samples))
    upscale_picture(tmp_path / "in.png", None, upscaler(Blur()))
    image = np.asarray(opened(tmp_path / "in_x2.png")).astype(int)
    seen = image[:, :, 3] > 0
    assert ((image[:, :, 3] > 0) & (image[:, :, 3] < 255)).any()  # the edge is soft
    assert image[seen][:, 0].min() >= 200
    assert image[seen][:, 1].max() <= 1  # the network's own offset
    # Away from the edge what is opaque stays so, and what is transparent.
    assert image[24, 24, 3] == 255
    assert image[0, 0, 3] == 0


def test_alpha_is_dropped_where_it_cannot_be_held(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    photo("RGBA").save(tmp_path / "in.png")
    told = Told()
    upscale_picture(tmp_path / "in.png", tmp_path / "out.jpg", repeat, progress=told)
    assert opened(tmp_path / "out.jpg").mode == "RGB"
    assert told.events[:2] == ["note", "started"]  # before work starts
    assert told.notes == [
        "JPEG holds no alpha: it is dropped, and what was transparent shows its colour"
    ]


def test_what_is_told(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    photo().save(tmp_path / "in.png")
    told = Told()
    told.folder = tmp_path
    receipt = upscale_picture(tmp_path / "in.png", None, repeat, progress=told)
    assert told.events == ["started", "1 done", "publishing"]
    assert len(told.there) == 2  # the hidden file; the name is not there yet
    assert "in_x2.png" not in told.there
    assert told.facts is not None
    assert (told.facts.codec, told.facts.pix_fmt, told.facts.frames) == ("PNG", "rgb24", 1)
    assert (told.facts.width, told.facts.height) == (96, 80)
    assert receipt.as_dict()["output"] == str(tmp_path / "in_x2.png")


def refused(
    error: type[Exception], message: str, folder: Path, source: str, target: str | None, **more: Any
) -> None:
    """Nothing is computed, and nothing written."""

    class Untouched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("work began")

    before = {path.name: path.is_dir() or path.read_bytes() for path in folder.iterdir()}
    output = None if target is None else folder / target
    with pytest.raises(error, match=message) as caught:
        upscale_picture(folder / source, output, upscaler(Untouched()), **more)
    assert "\n" not in str(caught.value)
    assert {path.name: path.is_dir() or path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no PNG"),
        (b"text", "is no PNG"),
        (png_of(noise(3, np.uint16))[:-40], "cannot be read"),
        (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(9)))
            + chunk(b"IEND", b""),
            "decompression bomb",
        ),
    ],
    ids=["empty", "text", "cut", "bomb"],
)
def test_a_broken_picture_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "in.png").write_bytes(data)
    refused(InputError, message, tmp_path, "in.png", None)


def test_names_are_checked_before_work(tmp_path: Path) -> None:
    photo().save(tmp_path / "in.png")
    photo().save(tmp_path / "in_x2.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("in.png")
    refused(OutputExistsError, "in_x2.png exists", tmp_path, "in.png", None)
    refused(OptionError, "is itself an input", tmp_path, "in.png", "in.png", overwrite=True)
    refused(OptionError, "is itself an input", tmp_path, "in.png", "link.png", overwrite=True)
    refused(OptionError, "is a folder", tmp_path, "in.png", "folder.png", overwrite=True)
    refused(OptionError, "end it in one of", tmp_path, "in.png", "out.gif")
    refused(OptionError, "many pictures", tmp_path, "in.png", "out_%d.png")
    refused(OutputError, "no such folder", tmp_path, "in.png", "none/out.png")
    refused(InputError, "No such file", tmp_path, "none.png", None)
    refused(InputError, "no file is named like", tmp_path, "none_%d.png", "out_%d.png")
    refused(
        OptionError, "write a .png", tmp_path, "in.png", "o.webp", size=SizeOptions(width=20_000)
    )


def test_no_numbers_from_the_network_are_refused(tmp_path: Path) -> None:
    photo().save(tmp_path / "in.png")
    with pytest.raises(EngineError, match=r"in\.png: the network gave values that are no numbers"):
        upscale_picture(tmp_path / "in.png", None, upscaler(NoNumbers()))
    assert names(tmp_path) == ["in.png"]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_sequence_keeps_numbers_profiles_and_sizes(
    repeat: hatvid.Upscaler, tmp_path: Path, kind: type[np.unsignedinteger[Any]]
) -> None:
    made = {}
    for number in (3, 4, 7, 1000):
        made[number] = noise(1 if number == 4 else 3, kind, number)[: number % 5 + 3]
        (tmp_path / f"f_{number:03d}.png").write_bytes(png_of(made[number]))
    told = Told()
    (tmp_path / "out").mkdir()
    receipt = upscale_picture(
        tmp_path / "f_%03d.png", tmp_path / "out" / "g-%d.png", repeat, progress=told
    )
    assert names(tmp_path / "out") == ["g-1000.png", "g-3.png", "g-4.png", "g-7.png"]
    for number, samples in made.items():
        got = samples_of((tmp_path / "out" / f"g-{number}.png").read_bytes())
        assert np.array_equal(got, repeated(samples))
    missing = "f_%03d.png: no file has the number 5 to 6, 8 to 999; the others are done"
    assert told.notes == [missing]
    assert told.events == ["note", "started", "1 done", "2 done", "3 done", "4 done", "publishing"]
    assert (receipt.frames, receipt.notes) == (4, (missing,))
    assert (receipt.width, receipt.height) == (18, 14)  # of the largest


def test_each_picture_of_a_sequence_keeps_its_own_profile(
    repeat: hatvid.Upscaler, tmp_path: Path
) -> None:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for number in range(3):
        tags = Image.Exif()
        tags[274] = number + 1
        icc = made[:48] + bytes([number]) * 4 + made[52:]  # the manufacturer's field
        photo().save(tmp_path / f"f{number}.png", icc_profile=icc, exif=tags)
    upscale_picture(tmp_path / "f%d.png", None, repeat)
    for number in range(3):
        source = opened(tmp_path / f"f{number}.png")
        result = opened(tmp_path / f"f{number}_x2.png")
        assert result.info["icc_profile"] == source.info["icc_profile"]
        assert result.getexif()[274] == number + 1


def test_an_output_that_exists_stops_a_sequence_before_it_starts(tmp_path: Path) -> None:
    for number in range(3):
        photo().save(tmp_path / f"f{number}.png")
    (tmp_path / "g2.png").write_bytes(b"mine")
    refused(OutputExistsError, "g2.png exists", tmp_path, "f%d.png", "g%d.png")
    refused(OptionError, "is one name for many pictures", tmp_path, "f%d.png", "g.png")
    # f1.png would be written over, before or after it is read
    photo().save(tmp_path / "f12.png")
    refused(OptionError, "is itself an input", tmp_path, "f%d.png", "f1%d.png", overwrite=True)


def test_overwriting_replaces(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    for number in range(2):
        photo().save(tmp_path / f"f{number}.png")
        (tmp_path / f"g{number}.png").write_bytes(b"old")
    upscale_picture(tmp_path / "f%d.png", tmp_path / "g%d.png", repeat, overwrite=True)
    assert all(opened(tmp_path / f"g{number}.png").size == (96, 80) for number in range(2))


@pytest.mark.parametrize("broken", [0, 1, 3])
def test_a_broken_picture_of_a_sequence_is_left_out_and_told(
    repeat: hatvid.Upscaler, tmp_path: Path, broken: int
) -> None:
    for number in range(4):
        photo().save(tmp_path / f"f{number}.png")
    (tmp_path / f"f{broken}.png").write_bytes(b"\x89PNG")
    told = Told()
    with pytest.raises(
        InputError, match=rf"1 of 4 pictures .* others are written: .*f{broken}\.png is no PNG"
    ):
        upscale_picture(tmp_path / "f%d.png", tmp_path / "g%d.png", repeat, progress=told)
    there = {path.name for path in tmp_path.glob("g*")}
    assert there == {f"g{number}.png" for number in range(4) if number != broken}
    assert "publishing" not in told.events


def test_what_many_pictures_lose_is_told_once(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    for number in range(4):
        photo("RGB" if number == 1 else "RGBA").save(tmp_path / f"f{number}.png")
    told = Told()
    upscale_picture(tmp_path / "f%d.png", tmp_path / "g%d.jpg", repeat, progress=told)
    text = "JPEG holds no alpha: it is dropped, and what was transparent shows its colour"
    assert told.notes == [f"f0.png: {text}", f"{text}: so it is with 3 pictures"]


def test_an_interrupted_sequence_leaves_whole_pictures(tmp_path: Path) -> None:
    for number in range(5):
        photo().save(tmp_path / f"f{number}.png")

    class Stopped(BaseException):
        pass

    class StopAtThird(Told):
        def advanced(self, frames: int) -> None:
            if frames == 3:
                raise Stopped

    with pytest.raises(Stopped):
        upscale_picture(
            tmp_path / "f%d.png",
            tmp_path / "g%d.png",
            upscaler(RepeatPixels()),
            progress=StopAtThird(),
        )
    there = names(tmp_path)
    assert not [name for name in there if name.endswith(".part")]
    for name in there:
        opened(tmp_path / name).verify()
    assert "g2.png" not in there


def test_a_file_that_is_itself_called_like_a_pattern(
    repeat: hatvid.Upscaler, tmp_path: Path
) -> None:
    photo().save(tmp_path / "a_%d.png")
    photo().save(tmp_path / "a_1.png")
    plan = plan_pictures(tmp_path / "a_%d.png", tmp_path / "o.png", scale=2)
    assert plan.files == ((tmp_path / "a_%d.png", tmp_path / "o.png"),)


def test_pictures_of_a_video_do_not_replace_others(tmp_path: Path) -> None:
    pattern = tmp_path / "o_%03d.png"
    assert check_pattern_output(pattern, overwrite=False) == ()
    (tmp_path / "o_0001.png").touch()  # fits no three digits
    assert check_pattern_output(pattern, overwrite=False) == ()
    (tmp_path / "o_950.png").touch()
    with pytest.raises(OutputExistsError, match=r"o_950\.png exists"):
        check_pattern_output(pattern, overwrite=False)
    (note,) = check_pattern_output(pattern, overwrite=True)
    assert note.startswith("1 files are named like o_%03d.png already")
    with pytest.raises(OutputError, match="no such folder"):
        check_pattern_output(tmp_path / "none" / "o_%d.png", overwrite=True)


def test_a_file_is_placed_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    place_file(path, b"one", overwrite=False)
    with pytest.raises(OutputExistsError, match="has appeared meanwhile"):
        place_file(path, b"two", overwrite=False)
    assert path.read_bytes() == b"one"
    place_file(path, b"two", overwrite=True)
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["a.png"]


def test_a_full_disk_is_told(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    import resource
    import signal

    image = Image.fromarray(noise(3, np.uint8).repeat(20, 0))
    image.save(tmp_path / "in.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(OutputError, match="free some space"):
            upscale_picture(tmp_path / "in.png", tmp_path / "out.webp", repeat)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert names(tmp_path) == ["in.png"]


def test_the_same_input_gives_the_same_bytes(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo().save(tmp_path / "in.png", icc_profile=icc, dpi=(300, 300))
    for suffix in ("png", "jpg", "webp"):
        for number in range(2):
            upscale_picture(tmp_path / "in.png", tmp_path / f"{number}.{suffix}", repeat)
        first, second = ((tmp_path / f"{number}.{suffix}").read_bytes() for number in range(2))
        assert first == second
        assert Image.open(io.BytesIO(first)).info["icc_profile"] == icc


def test_planning_needs_neither_torch_nor_pyav() -> None:
    import subprocess
    import sys

    code = (
        "import sys, hatvid.jobs.picture_plan; "
        "print({'torch', 'av', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_threads_are_joined(repeat: hatvid.Upscaler, tmp_path: Path) -> None:
    photo().save(tmp_path / "in.png")
    upscale_picture(tmp_path / "in.png", None, repeat)
    assert not [one for one in threading.enumerate() if one.name.startswith("hatvid-")]
    assert torch.is_grad_enabled()
