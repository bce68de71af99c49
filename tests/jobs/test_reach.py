"""What is sent to a worker that sees neither the input nor the journal's folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hatvid.errors import InputError
from hatvid.jobs.actor import Actor
from hatvid.jobs.course import Course, plan_course
from hatvid.jobs.fingerprint import Described
from hatvid.jobs.format import plan_output, scale_for
from hatvid.jobs.job import Job, plan_job
from hatvid.jobs.reach import Mark, sees, with_input
from hatvid.jobs.records import Record
from hatvid.jobs.sources import open_source
from hatvid.jobs.worker import Task
from hatvid.options import EngineOptions, JobOptions, TileOptions
from hatvid.segment_options import SegmentOptions
from hatvid.upscaler import Upscaler
from hatvid.video.encoder_segments import with_threads
from hatvid.video.window import WindowSource

FRAMES = 240
OPEN_GOP = "open-gop=1:bframes=4:keyint=24:log-level=0"
INPUTS = {
    "clip.mkv": ("-c:v", "libx264", "-g", "24", "-bf", "2"),
    "clip.mp4": ("-c:v", "libx264", "-g", "24", "-bf", "2"),
    "open.mkv": ("-c:v", "libx265", "-x265-params", OPEN_GOP),
    "clip.ts": ("-c:v", "mpeg2video", "-g", "24", "-bf", "2", "-q:v", "3"),
}


def planned(source: Path, output: Path) -> tuple[Job, Task]:
    options = JobOptions(
        input=source,
        output=output,
        scale=2,
        engine=EngineOptions(engine="eager", threads=1, device="cpu"),
        tile=TileOptions(tile=0),
        segments=SegmentOptions(length=2),
    )
    job = plan_job(options)
    with open_source(job) as opened:
        assert job.container is not None
        plan = plan_output(job, job.container, opened.info, scale_for(job, opened.info) or 2)
        course = plan_course(job, opened, plan)
    assert isinstance(course, Course)
    assert plan.form is not None
    form = replace(plan.form, encoder=with_threads(plan.form.encoder, 1))
    plan = replace(plan, form=form)
    return job, Task(course=course, plan=plan, key="0" * 64, folder=output.parent)


def frames_of(task: Task, number: int) -> list[Any]:
    course = task.course
    part = [course.segments[number]]
    with WindowSource(
        course.path,
        course.info,
        course.kind,
        course.window(part, begin=task.begin),
        reading=course.reading,
        streams=course.streams,
        opener=None if task.excerpt is None else task.excerpt.open,
    ) as source:
        return [(batch.times, batch.planes) for batch in source.items(1)]


@pytest.fixture(scope="module", params=INPUTS)
def source(
    request: pytest.FixtureRequest,
    pyav: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("reach") / str(request.param)
    pyav(
        *("-f", "lavfi", "-i", f"testsrc2=size=160x120:rate=24:duration={FRAMES / 24}"),
        *("-f", "lavfi", "-i", f"sine=duration={FRAMES / 24}", "-pix_fmt", "yuv420p"),
        *INPUTS[str(request.param)],
        path,
    )
    return path


def test_an_excerpt_decodes_as_the_file_does(source: Path, tmp_path: Path) -> None:
    _, task = planned(source, tmp_path / "out.mkv")
    assert len(task.course.segments) == 5
    for number, segment in enumerate(task.course.segments):
        sent = with_input(task, [segment], 0)
        assert sent.excerpt is not None
        assert sent.excerpt.bytes <= source.stat().st_size
        here, there = frames_of(task, number), frames_of(sent, number)
        assert [times for times, _ in here] == [times for times, _ in there]
        for (_, mine), (_, others) in zip(here, there, strict=True):
            assert all(map(torch.equal, mine, others))


def test_what_is_not_sent_is_not_made_up(source: Path, tmp_path: Path) -> None:
    _, task = planned(source, tmp_path / "out.mkv")
    number = len(task.course.segments) - 1
    sent = with_input(task, [task.course.segments[number]], 0)
    assert sent.excerpt is not None
    held = dict(sent.excerpt.blocks)
    for missing in range(1, len(held)):
        blocks = dict(sorted(held.items())[:missing])
        poor = replace(sent, excerpt=replace(sent.excerpt, blocks=blocks))
        with pytest.raises(InputError):
            frames_of(poor, number)


def test_all_of_the_file_is_sent_in_the_end(source: Path, tmp_path: Path) -> None:
    _, task = planned(source, tmp_path / "out.mkv")
    whole = with_input(task, [task.course.segments[1]], 2)
    assert whole.excerpt is not None
    assert whole.excerpt.complete
    assert whole.begin
    assert b"".join(whole.excerpt.blocks.values()) == source.read_bytes()


def test_an_input_that_was_changed_is_not_sent(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / source.name
    copy.write_bytes(source.read_bytes())
    _, task = planned(copy, tmp_path / "out.mkv")
    copy.write_bytes(source.read_bytes() + b"x")
    with pytest.raises(InputError, match="was changed"):
        with_input(task, [task.course.segments[0]], 0)


def test_only_the_very_folder_is_known_again(source: Path, tmp_path: Path) -> None:
    _, task = planned(source, tmp_path / "out.mkv")
    other = tmp_path / "other"
    other.mkdir()
    with Mark(tmp_path) as mark:
        assert sees(task.course, tmp_path, mark.name) == (True, True)
        assert sees(task.course, other, mark.name) == (True, False)
        gone = replace(task.course, path=tmp_path / "gone.mkv")
        assert sees(gone, tmp_path, mark.name) == (False, True)
    assert not (tmp_path / mark.name).exists()


@pytest.fixture
def repeating(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network to load."""

    def own(job: Job, scale: int | None) -> Upscaler:
        options = job.options
        return Upscaler(RepeatPixels(), scale=2, engine_options=options.engine, fingerprint="it")

    monkeypatch.setattr("hatvid.jobs.actor.own_upscaler", own)


class RepeatPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.usefixtures("repeating")
def test_a_worker_far_away_makes_the_same_segment(
    pyav: Callable[..., None], tmp_path: Path
) -> None:
    source = tmp_path / "in.mkv"
    pyav(
        *("-f", "lavfi", "-i", "testsrc2=size=32x32:rate=4:duration=5", "-pix_fmt", "yuv420p"),
        *("-c:v", "libx264", "-g", "8", source),
    )
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    job, near = planned(source, here / "out.mkv")
    far = replace(near, folder=there / "not there")
    actor = Actor(2, (32, 32))
    assert isinstance(actor.load(job)[1], Described)
    segment = near.course.segments[1]

    def stored(words: list[Any]) -> list[tuple[Record, bytes | None]]:
        assert {word[0] for word in words} == {"advanced", "stored"}
        assert sum(word[1] for word in words if word[0] == "advanced") == segment.frames
        return [(record, data) for _, record, data in (w for w in words if w[0] == "stored")]

    ((mine, none),) = stored(list(actor.work(near, [segment], True)))
    ((its, data),) = stored(list(actor.work(with_input(far, [segment], 0), [segment], False)))
    assert none is None
    assert data == (here / "00001.nut").read_bytes()
    aside = {"seconds", "reused"}  # that of the first is still known
    assert its.model_dump(exclude=aside) == mine.model_dump(exclude=aside)
    assert list(there.iterdir()) == []


@pytest.mark.usefixtures("repeating")
def test_too_small_an_excerpt_is_told(pyav: Callable[..., None], tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    pyav(
        *("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=4:duration=9", "-pix_fmt", "yuv420p"),
        *("-c:v", "ffv1", source),
    )
    job, task = planned(source, tmp_path / "out.mkv")
    actor = Actor(2, (120, 160))
    actor.load(job)
    part = [task.course.segments[-1]]
    sent = with_input(task, part, 0)
    assert sent.excerpt is not None
    poor = replace(sent, excerpt=replace(sent.excerpt, blocks={0: sent.excerpt.blocks[0]}))
    assert list(actor.work(poor, part, False)) == [("short",)]
