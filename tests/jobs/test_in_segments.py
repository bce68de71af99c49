"""Long videos in segments: what is done stays done, and every way gives the same packets."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from torch import Tensor, nn

import hatvid
from hatvid.engine.eager import EagerEngine
from hatvid.errors import InputError, OptionError, OutOfMemoryError, OutputError, UsageError
from hatvid.jobs import whole as whole_module
from hatvid.jobs import worker
from hatvid.jobs.journal import Journal, folder_for
from hatvid.jobs.progress import Silent
from hatvid.jobs.receipt import Receipt, ShardReceipt
from hatvid.options import EngineOptions, ReuseOptions, TileOptions
from hatvid.upscaler import Upscaler
from hatvid.video.segment_file import SegmentWriter
from hatvid.video.window import WindowSource

FRAMES = 60
Pyav = Callable[..., None]


class Counting(nn.Module):
    """Nearest neighbour, twice as large; counts its frames."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0

    def forward(self, x: Tensor) -> Tensor:
        self.frames += len(x)
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Such small pictures take longer with several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> Counting:
    return Counting()


@pytest.fixture(scope="module")
def upscaler(network: Counting) -> Iterator[Upscaler]:
    with Upscaler(
        network,
        scale=2,
        engine_options=EngineOptions(engine="eager", threads=1),
        fingerprint="repeats pixels",
    ) as found:
        # The engine works on a copy: its calls are counted here.
        found.warm_up(48, 64)
        yield found


@pytest.fixture(scope="module")
def clip(pyav: Pyav, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of 64x48 at 24 a second, a key frame every 12th, with sound and a subtitle."""
    folder = tmp_path_factory.mktemp("segments")
    texts = folder / "a.srt"
    texts.write_text("1\n00:00:00,200 --> 00:00:01,900\nacross segments\n")
    pyav(
        *("-f", "lavfi", "-i", f"testsrc2=size=64x48:rate=24:duration={FRAMES / 24}"),
        *("-f", "lavfi", "-i", f"sine=duration={FRAMES / 24}", "-i", texts),
        *("-c:v", "libx264", "-g", "12", "-bf", "2", "-pix_fmt", "yuv420p", "-c:a", "aac"),
        *("-color_range", "tv", "-colorspace", "smpte170m"),
        folder / "clip.mkv",
    )
    return folder / "clip.mkv"


class Stopping(Silent):
    """Breaks a job off after so many frames."""

    def __init__(self, after: int | None = None, error: BaseException | None = None) -> None:
        self.after, self.error = after, error or KeyboardInterrupt()
        self.counts: list[int] = []
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def advanced(self, frames: int) -> None:
        self.counts.append(frames)
        if self.after is not None and len(self.counts) >= self.after:
            raise self.error


def packets(path: Path) -> list[tuple[int, int | None, int | None, int | None, str]]:
    with av.open(path) as container:
        return [
            (p.stream.index, p.pts, p.dts, p.duration, hashlib.sha256(bytes(p)).hexdigest())
            for p in container.demux()
            if p.size
        ]


def video(path: Path) -> list[Any]:
    return [found[1:] for found in packets(path) if found[0] == 0]


@pytest.fixture
def job(clip: Path, upscaler: Upscaler, tmp_path: Path) -> Callable[..., Receipt]:
    """Upscale the clip into ``tmp_path/out.mkv`` in segments of 12 frames."""

    def run(name: str = "out.mkv", source: Path = clip, **options: Any) -> Receipt:
        options = {"segment": 0.5, "upscaler": upscaler, **options}
        receipt = hatvid.upscale(source, tmp_path / name, **options)
        assert isinstance(receipt, Receipt)
        return receipt

    return run


@pytest.fixture(scope="module")
def whole(clip: Path, upscaler: Upscaler, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Packets of an uninterrupted run in segments."""
    path = tmp_path_factory.mktemp("whole") / "out.mkv"
    hatvid.upscale(clip, path, upscaler=upscaler, segment=0.5)
    return packets(path)


def test_an_uninterrupted_run_decodes_once_and_changes_encoders(
    job: Callable[..., Receipt],
    network: Counting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows, writers = [], []
    for owner, made in ((WindowSource, windows), (SegmentWriter, writers)):
        start = owner.__init__

        def counted(
            self: Any, *given: Any, start: Any = start, made: Any = made, **named: Any
        ) -> None:
            made.append((given, named))
            start(self, *given, **named)

        monkeypatch.setattr(owner, "__init__", counted)
    receipt = job()
    assert len(windows) == 1
    assert windows[0][0][3].key is None, "read from its beginning, without seeking"
    assert len(writers) == 5 + 1, "one is tried before work begins"
    assert receipt.verification is not None
    assert receipt.verification.ok
    assert receipt.frames == FRAMES
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]


def test_it_has_all_that_a_straight_run_has(job: Callable[..., Receipt], tmp_path: Path) -> None:
    job()
    receipt = job("straight.mkv", segment=0)
    mine, other = packets(tmp_path / "out.mkv"), packets(tmp_path / "straight.mkv")
    for index in (1, 2):
        assert [p for p in mine if p[0] == index] == [p for p in other if p[0] == index]
    shown = [
        sorted((pts, duration) for _, pts, _, duration, _ in found if found)
        for found in (mine, other)
    ]
    assert shown[0] == shown[1]
    assert len(receipt.streams) == 3
    with av.open(tmp_path / "out.mkv") as one, av.open(tmp_path / "straight.mkv") as two:
        assert one.metadata == two.metadata
        for a, b in zip(one.streams, two.streams, strict=True):
            assert {**a.metadata, "DURATION": ""} == {**b.metadata, "DURATION": ""}
            assert a.disposition == b.disposition
        assert one.streams.video[0].codec_context.has_b_frames > 0


@pytest.mark.parametrize("after", [1, 13, 36, 60])
def test_the_same_command_goes_on_where_it_stopped(
    job: Callable[..., Receipt],
    whole: list[Any],
    tmp_path: Path,
    after: int,
) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped:
        job(progress=Stopping(after))
    left = [path.name for path in tmp_path.iterdir()]
    kept = len(list(tmp_path.glob(".out.mkv.hatvid/*.nut")))
    assert left in ([], [".out.mkv.hatvid"])
    assert kept >= (after - 1) // 12 - 1, "what the encoder still had may be lost"
    if kept:
        assert f"{kept} of 5 segments are kept" in stopped.value.__notes__[0]
    else:
        assert left == []
    again = Stopping()
    receipt = job(progress=again)
    assert packets(tmp_path / "out.mkv") == whole
    assert len(again.counts) == FRAMES - 12 * kept
    assert again.counts[-1:] in ([FRAMES], []), "it counts what was done before"
    assert any("going on" in note for note in receipt.notes) == bool(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]


CASES: dict[str, tuple[str, tuple[str, ...], str, dict[str, Any]]] = {
    "x264 in mp4": (".mkv", ("-c:v", "libx264", "-g", "12"), ".mp4", {}),
    "x265": (".mp4", ("-c:v", "libx264", "-g", "12"), ".mkv", {"codec": "libx265"}),
    "vp9": (".mp4", ("-c:v", "libx264", "-g", "12"), ".webm", {}),
    "av1": (".mp4", ("-c:v", "libx264", "-g", "12"), ".mkv", {"codec": "libsvtav1"}),
    "lossless": (".mp4", ("-c:v", "libx264", "-g", "12"), ".mkv", {"lossless": True}),
    "ffv1": (".mp4", ("-c:v", "libx264", "-g", "12"), ".mkv", {"codec": "ffv1"}),
    "ts": (".ts", ("-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "3"), ".ts", {}),
    "nut": (".nut", ("-c:v", "ffv1"), ".nut", {}),
    "open GOP x265": (
        ".mkv",
        ("-c:v", "libx265", "-x265-params", "open-gop=1:bframes=4:keyint=12:log-level=0"),
        ".mp4",
        {},
    ),
    "uneven": (
        ".mp4",
        (
            *("-vf", "select='not(eq(mod(n,5),3))',setpts='PTS+mod(N,3)*0.005/TB'"),
            *(
                "-fps_mode",
                "passthrough",
                "-enc_time_base",
                "1:90000",
                "-c:v",
                "libx264",
                "-g",
                "12",
            ),
        ),
        ".mp4",
        {},
    ),
    "no key frame near": (".mp4", ("-c:v", "libx264", "-g", "999"), ".mp4", {}),
    "a part": (".mp4", ("-c:v", "libx264", "-g", "12"), ".mkv", {"start": "7f", "end": "2.2"}),
    "fields": (
        ".mp4",
        ("-c:v", "libx264", "-g", "12"),
        ".mkv",
        {"deinterlace": "field"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_file_and_every_resumed_one(
    name: str,
    pyav: Pyav,
    job: Callable[..., Receipt],
    tmp_path: Path,
) -> None:
    suffix, how, ending, options = CASES[name]
    source = tmp_path / f"in{suffix}"
    pyav(
        *("-f", "lavfi", "-i", f"testsrc2=size=64x48:rate=24:duration={FRAMES / 24}"),
        *("-f", "lavfi", "-i", f"sine=duration={FRAMES / 24}", "-pix_fmt", "yuv420p"),
        *("-c:a", "aac" if suffix != ".nut" else "flac", *how, source),
    )
    if ending == ".webm":
        options = {**options, "audio": False}
    once = job(f"once{ending}", source, **options)
    assert once.verification is not None
    assert once.verification.ok
    with pytest.raises(KeyboardInterrupt):
        job(f"twice{ending}", source, progress=Stopping(31), **options)
    assert list(tmp_path.glob(".twice.*/*.nut"))
    resumed = job(f"twice{ending}", source, **options, verify="none")
    assert any("going on" in note for note in resumed.notes)
    assert packets(tmp_path / f"once{ending}") == packets(tmp_path / f"twice{ending}")


# What a journal does not believe.


def stopped(job: Callable[..., Receipt], after: int = 40, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        job(progress=Stopping(after), **options)


def spoil(folder: Path, kind: str) -> str:
    """Change something of segment 1; what is said of it."""
    file, record = folder / "00001.nut", folder / "00001.json"
    found = json.loads(record.read_text())
    if kind == "bytes":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        return "its file was changed"
    if kind == "other file":
        file.write_bytes((folder / "00000.nut").read_bytes())
        found |= {
            "size": file.stat().st_size,
            "sha256": json.loads((folder / "00000.json").read_text())["sha256"],
        }
        record.write_text(json.dumps(found))
        return "at other times"
    if kind == "no file":
        file.write_bytes(b"")
        found |= {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
        record.write_text(json.dumps(found))
        return "cannot be read"
    if kind == "extradata":
        record.write_text(json.dumps(found | {"extradata": "0" * 64}))
        return "extradata"
    if kind == "times":
        times = [[pts + 100_000, duration] for pts, duration in found["times"]]
        record.write_text(json.dumps(found | {"times": times}))
        return "frames of others"
    texts = {
        "truncated": record.read_text()[:100],
        "another job": json.dumps(found | {"job": "0" * 64}),
        "another number": json.dumps(found | {"number": 3}),
        "more than it has": json.dumps(found | {"path": "../../etc/passwd"}),
        "words": json.dumps(found | {"lead": "1"}),
    }
    record.write_text(texts[kind])
    return ""


KINDS = ("bytes", "other file", "no file", "extradata", "times", "truncated", "another job")


@pytest.mark.parametrize("kind", [*KINDS, "another number", "more than it has", "words"])
def test_a_segment_that_is_not_what_its_record_says_is_done_again(
    job: Callable[..., Receipt], whole: list[Any], tmp_path: Path, kind: str
) -> None:
    stopped(job)
    says = spoil(tmp_path / ".out.mkv.hatvid", kind)
    receipt = job()
    assert packets(tmp_path / "out.mkv") == whole
    told = [note for note in receipt.notes if "done again" in note]
    assert bool(told) == bool(says)
    assert all(note.startswith("segment 1 is done again") and says in note for note in told)


def test_a_journal_that_cannot_be_believed_is_left_alone(
    job: Callable[..., Receipt], whole: list[Any], tmp_path: Path
) -> None:
    stopped(job)
    header = tmp_path / ".out.mkv.hatvid" / "job.json"
    for text in ("{", json.dumps(json.loads(header.read_text()) | {"version": 2}), "[]"):
        header.write_text(text)
        with pytest.raises(OutputError, match="restart"):
            job()
        assert len(list(header.parent.glob("*.nut"))) >= 2
    job(restart=True)
    assert packets(tmp_path / "out.mkv") == whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"crf": 20}, "encoder options crf=16.* -> crf=20"),
        ({"codec": "libx265"}, "codec libx264 -> libx265"),
        ({"pix_fmt": "yuv444p"}, "pix_fmt yuv420p -> yuv444p"),
        ({"start": "1"}, "frames 60 -> 36; start nothing|start"),
        ({"segment": 1}, "segments"),
        ({"in_range": "full"}, "colours"),
        ({"encoder_options": {"threads": "3"}}, "threads=3"),
    ],
)
def test_other_settings_are_refused_and_shown(
    job: Callable[..., Receipt], whole: list[Any], tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    stopped(job)
    before = sorted((tmp_path / ".out.mkv.hatvid").iterdir())
    with pytest.raises(UsageError, match=says) as refused:
        job(**change)
    assert "--restart" in str(refused.value)
    assert sorted((tmp_path / ".out.mkv.hatvid").iterdir()) == before
    job(audio=True)
    assert packets(tmp_path / "out.mkv") == whole


def test_begin_anew(job: Callable[..., Receipt], tmp_path: Path) -> None:
    stopped(job)
    again = Stopping()
    receipt = job(restart=True, crf=30, progress=again)
    assert len(again.counts) == FRAMES
    assert not any("going on" in note for note in receipt.notes)


def test_another_input_of_the_same_name_is_refused(
    job: Callable[..., Receipt], clip: Path, tmp_path: Path
) -> None:
    source = tmp_path / "mine.mkv"
    source.write_bytes(clip.read_bytes())
    stopped(job, source=source)
    data = bytearray(clip.read_bytes())
    at = data.rfind(b"across segments")
    data[at : at + 1] = b"A"
    source.write_bytes(data)
    with pytest.raises(UsageError, match=r"input [0-9a-f]+"):
        job(source=source)


def test_two_runs_at_the_same_time(
    job: Callable[..., Receipt], whole: list[Any], tmp_path: Path
) -> None:
    stopped(job)
    code = (
        "import sys; from pathlib import Path; from hatvid.jobs.journal import Journal\n"
        "with Journal(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "out.mkv"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        for options in ({}, {"restart": True}, {"shard": (1, 2)}):
            with pytest.raises(OutputError, match="another hatvid is working"):
                job(**options)
    finally:
        holder.kill()  # its lock goes with it
        holder.communicate()
    job()
    assert packets(tmp_path / "out.mkv") == whole


def test_a_folder_that_is_a_link_is_not_followed(
    job: Callable[..., Receipt], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder_for(tmp_path / "out.mkv").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="link"):
        job()
    assert list(elsewhere.iterdir()) == []


def test_an_output_that_is_a_link_is_refused(job: Callable[..., Receipt], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.mkv"
    elsewhere.write_bytes(b"precious")
    (tmp_path / "out.mkv").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="is a link to elsewhere"):
        job(overwrite=True)
    assert elsewhere.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere.mkv", "out.mkv"]


def test_a_journal_is_private(job: Callable[..., Receipt], tmp_path: Path) -> None:
    stopped(job)
    assert (tmp_path / ".out.mkv.hatvid").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("length", [1, 50, 200, 240])
def test_names_of_any_length(tmp_path: Path, length: int) -> None:
    for letter in ("a", "é", "\udce9"):
        name = letter * (length // len(os.fsencode(letter)) or 1) + ".mkv"
        folder = folder_for(tmp_path / name)
        assert folder.parent == tmp_path
        with Journal(tmp_path / name):
            assert folder.is_dir()
        assert not folder.exists(), "it had nothing"


# What goes wrong on the way.


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_full_disk_keeps_what_is_done(
    job: Callable[..., Receipt],
    whole: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    real = worker.PartialFile.__enter__

    def full(partial: Any) -> Any:
        real(partial)
        if f"{at:05d}.nut" in partial.written.name:
            partial.file.close()
            partial.file = open("/dev/full", "wb")  # noqa: PTH123, SIM115
        return partial

    with monkeypatch.context() as patched:
        patched.setattr(worker.PartialFile, "__enter__", full)
        with pytest.raises(OutputError, match="space"):
            job()
    assert len(list(tmp_path.glob(".out.mkv.hatvid/*.nut"))) == at
    assert not list(tmp_path.glob(".out.mkv.hatvid/.*.part"))
    job()
    assert packets(tmp_path / "out.mkv") == whole


def test_a_full_disk_at_the_join_keeps_everything(
    job: Callable[..., Receipt], whole: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("no space left") from OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(whole_module, "join", full)
        with pytest.raises(OutputError):
            job()
    again = Stopping()
    job(progress=again)
    assert again.counts == [], "nothing is computed again"
    assert packets(tmp_path / "out.mkv") == whole


def test_a_disk_that_cannot_hold_it_is_refused_first(
    job: Callable[..., Receipt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 500})
    monkeypatch.setattr("hatvid.jobs.disk.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"0\.0 MB are free"):
        job()
    assert list(tmp_path.iterdir()) == []
    usage.free = 3000  # type: ignore[attr-defined]
    receipt = job()
    assert any("the disk will be full" in note for note in receipt.notes)


def test_an_input_that_is_cut_short_meanwhile(
    job: Callable[..., Receipt], clip: Path, whole: list[Any], tmp_path: Path
) -> None:
    source = tmp_path / "mine.mkv"
    source.write_bytes(clip.read_bytes())

    class Cutting(Silent):
        def advanced(self, frames: int) -> None:
            if frames == 20:
                os.truncate(source, 15000)

    with pytest.raises(InputError, match="was changed"):
        job(source=source, progress=Cutting())
    kept = len(list(tmp_path.glob(".out.mkv.hatvid/*.nut")))
    with pytest.raises(UsageError, match="input"):
        job(source=source)
    assert len(list(tmp_path.glob(".out.mkv.hatvid/*.nut"))) == kept
    source.write_bytes(clip.read_bytes())
    job(source=source)
    assert packets(tmp_path / "out.mkv") == whole


def test_an_output_that_is_not_its_input_deletes_nothing(
    job: Callable[..., Receipt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hatvid.jobs.join.sorted", lambda stamps: [p + 2 for p in sorted(stamps)], raising=False
    )
    with pytest.raises(OutputError):
        job()
    assert not (tmp_path / "out.mkv").exists()


class Small:
    """Builds engines that give up larger tiles than 100 pixels after some frames."""

    def __init__(self, frames: int) -> None:
        self.left = frames

    def __call__(self, module: nn.Module, spec: Any, resolved: Any, fingerprint: Any) -> Any:
        small = self

        class Limited(EagerEngine):
            def run(self, tiles: Tensor) -> Tensor:
                small.left -= 1
                if small.left < 0 and max(spec.height, spec.width) > 100:
                    raise OutOfMemoryError("memory ran out; choose a smaller tile")
                return super().run(tiles)

        return Limited(module, spec)


def test_memory_that_runs_out_begins_anew_with_one_tiling(
    pyav: Pyav, job: Callable[..., Receipt], tmp_path: Path
) -> None:
    source = tmp_path / "in.mkv"
    pyav(
        *("-f", "lavfi", "-i", "testsrc2=size=200x120:rate=24:duration=1.5"),
        *("-c:v", "libx264", "-preset", "ultrafast", source),
    )
    options = EngineOptions(engine="eager", threads=1)
    small = Upscaler(
        Counting(),
        scale=2,
        engine_options=options,
        tile_options=TileOptions(tile=256),
        fingerprint="repeats pixels",
        engine_factory=Small(30),
    )
    told = Stopping()
    receipt = job(source=source, upscaler=small, progress=told)
    assert receipt.frames == 36
    assert len(told.counts) == 30 + 36, "all of it again"
    assert any("memory ran out after 30 frames" in note for note in receipt.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "out.mkv"]


# What is reused of frames before.


@pytest.fixture(scope="module")
def rising(pyav: Pyav, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 gray frames, each two steps lighter than the one before, and every third as that."""
    path = tmp_path_factory.mktemp("rising") / "clip.mkv"
    pyav(
        *("-f", "lavfi", "-i", f"color=size=64x48:rate=24:duration={FRAMES / 24}"),
        *("-vf", "geq=lum='40+2*(N-eq(mod(N,3),2))':cb=128:cr=128"),
        *("-c:v", "libx264", "-qp", "0", "-g", "12", "-pix_fmt", "yuv420p"),
        *("-color_range", "tv", "-colorspace", "smpte170m", path),
    )
    return path


def test_what_is_reused_hangs_on_no_other_segment(
    job: Callable[..., Receipt], rising: Path, tmp_path: Path
) -> None:
    def upscaler() -> Upscaler:
        return Upscaler(
            Counting(),
            scale=2,
            engine_options=EngineOptions(engine="eager", threads=1),
            tile_options=TileOptions(tile=0, batch=1),
            fingerprint="repeats pixels",
        )

    once = job("once.mkv", rising, upscaler=upscaler(), verify="quick")
    with pytest.raises(KeyboardInterrupt):
        job(source=rising, upscaler=upscaler(), verify="quick", progress=Stopping(31))
    again = job(source=rising, upscaler=upscaler(), verify="quick")
    assert any("going on" in note for note in again.notes)
    assert packets(tmp_path / "out.mkv") == packets(tmp_path / "once.mkv")
    assert once.reused.tiles == FRAMES
    assert once.reused.hits >= FRAMES // 3 - 5


def test_a_job_goes_on_with_reuse_or_without(job: Callable[..., Receipt], rising: Path) -> None:
    """No bit hangs on it."""

    def upscaler(reuse: ReuseOptions) -> Upscaler:
        options = EngineOptions(engine="eager", threads=1)
        network = Counting()
        return Upscaler(network, scale=2, engine_options=options, reuse=reuse, fingerprint="it")

    stopped(job, source=rising, upscaler=upscaler(ReuseOptions()))
    assert job(source=rising, upscaler=upscaler(ReuseOptions(mode="off"))).frames == FRAMES


# Encoders whose rate is of the whole video.

RATES: list[tuple[dict[str, Any], str]] = [
    ({"codec": "libx264", "encoder_options": {"b": "200k"}}, "bit rate"),
    ({"encoder_options": {"maxrate": "300k", "bufsize": "300k"}}, "buffer"),
    ({"encoder_options": {"x264-params": "vbv-maxrate=300:vbv-bufsize=300"}}, "vbv-maxrate"),
    ({"codec": "mpeg4"}, "no constant quality"),
]


@pytest.mark.parametrize(("options", "says"), RATES)
def test_rates_of_the_whole_are_refused_or_accepted_for_each(
    job: Callable[..., Receipt], tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(OptionError, match=f"{says}.*--per-segment"):
        job(**options)
    assert list(tmp_path.iterdir()) == []
    assert job(**options, per_segment=True).frames == FRAMES


def test_long_videos_run_in_segments_by_themselves(
    pyav: Pyav, job: Callable[..., Receipt], tmp_path: Path
) -> None:
    source = tmp_path / "long.mp4"
    pyav(
        *("-f", "lavfi", "-i", "testsrc2=size=32x32:rate=4:duration=30", "-pix_fmt", "yuv420p"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-g", "20", source),
    )
    stopped(job, 70, source=source, segment=None)
    assert len(list(tmp_path.glob(".out.mkv.hatvid/*.nut"))) == 1
    receipt = job(source=source, segment=None)
    assert receipt.frames == 120
    rated = job("rated.mkv", source, segment=None, codec="mpeg4")
    assert any("not in segments" in note and "bit rate" in note for note in rated.notes)


def test_short_ones_run_straight(
    job: Callable[..., Receipt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hatvid.jobs.course.scan", None)
    assert job(segment=None).frames == FRAMES


# Shards.


def test_shards_make_the_same_packets(
    clip: Path, upscaler: Upscaler, whole: list[Any], tmp_path: Path, job: Callable[..., Receipt]
) -> None:
    from hatvid.jobs.job import plan_job
    from hatvid.jobs.run import run_job
    from hatvid.options import JobOptions
    from hatvid.segment_options import SegmentOptions

    def joined() -> Receipt:
        options = JobOptions(
            input=clip,
            output=tmp_path / "out.mkv",
            scale=2,
            segments=SegmentOptions(length=0.5, join_only=True),
        )
        receipt = run_job(plan_job(options, own_upscaler=True), upscaler=upscaler)
        assert isinstance(receipt, Receipt)
        return receipt

    done = []
    for part in (2, 1, 3):
        with pytest.raises(OutputError, match="not done yet"):
            joined()
        receipt = hatvid.upscale(
            clip, tmp_path / "out.mkv", upscaler=upscaler, segment=0.5, shard=(part, 3)
        )
        assert isinstance(receipt, ShardReceipt)
        done.append((receipt.frames, receipt.done, receipt.segments))
        assert not (tmp_path / "out.mkv").exists()
    assert done == [(24, 2, 5), (12, 3, 5), (24, 5, 5)]
    assert joined().frames == FRAMES
    assert packets(tmp_path / "out.mkv") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]


def test_of_shards_that_begin_at_once_the_first_decides(
    clip: Path, upscaler: Upscaler, whole: list[Any], tmp_path: Path, job: Callable[..., Receipt]
) -> None:
    output = tmp_path / "out.mkv"
    begin = Journal.begin

    def shard(part: int) -> ShardReceipt:
        receipt = hatvid.upscale(clip, output, upscaler=upscaler, segment=0.5, shard=(part, 2))
        assert isinstance(receipt, ShardReceipt)
        return receipt

    def late(journal: Journal, header: Any) -> None:
        """Somebody else has written the header since this one looked, with other threads."""
        if journal.header is None and not list(journal.folder.glob("*.json")):
            with pytest.MonkeyPatch.context() as undone:
                undone.setattr(Journal, "begin", begin)
                undone.setattr("os.cpu_count", lambda: 7)
                shard(2)
        begin(journal, header)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "begin", late)
        assert shard(1).done == 5
    threads = {
        json.loads((folder_for(output) / "job.json").read_text())["resolved"]["encoder_threads"]
    }
    assert threads == {7}
