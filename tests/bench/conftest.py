"""A task small enough for any test, and contestants from tests/doubles/racers.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hatvid.bench.contestants import Contestant
from hatvid.bench.material import Network, moving_frames, redraw, task
from hatvid.bench.networks import published
from hatvid.bench.runner import Task
from hatvid.model.hat import HATConfig


@pytest.fixture(scope="session")
def small() -> HATConfig:
    return HATConfig(
        embed_dim=12,
        depths=(2,),
        num_heads=(2,),
        compress_ratio=3,
        squeeze_factor=4,
        num_feat=8,
        upscale=2,
    )


@pytest.fixture(scope="session")
def network(small: HATConfig) -> Network:
    theirs = published(small)
    redraw(theirs, small)
    return Network(name="small", config=small, trained=False, published=theirs)


@pytest.fixture(scope="session")
def given(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    frames = moving_frames(2, 20, 32)
    return task(network, frames, folder, threads=1, native_bf16=False)


@pytest.fixture(scope="session")
def pretender() -> Callable[..., Contestant]:
    """``pretender(name, side, **settings)``; several settings as a list."""

    def make(name: str, side: str = "ours", build: str = "pretend", **more: Any) -> Contestant:
        settings = more.pop("settings", None) or [more]
        return Contestant(
            name=name,
            side=side,  # type: ignore[arg-type]
            build=f"racers:{build}",
            settings=tuple(settings),
        )

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
