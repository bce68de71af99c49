"""What holds for the whole test session: private folders, a PATH without what pip does not bring,
marks of hardware and of programs, no hidden skips."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import debian
import pytest
from bare_path import bare_path

FORBID_SKIPS = "HATVID_FORBID_SKIPS"
"""Environment variable: set to 1, a test that skips for anything but hardware fails."""

HARDWARE_SKIP = pytest.StashKey[bool]()
PRIVATE_FOLDERS = pytest.StashKey[tuple[str, dict[str, str | None]]]()
WHOLE_PATH = pytest.StashKey[str]()
"""The PATH that the tests were started with, for those marked ``media``."""

# platformdirs reads the first three on Linux and macOS, the last on Windows.
USER_FOLDERS = {
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "LOCALAPPDATA": "local",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-cuda",
        action="store_true",
        help="fail, rather than skip, a needs_cuda test when there is no NVIDIA GPU",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Here rather than in a fixture: modules under test may read the environment when
    # they are imported, which is before any fixture.
    root = tempfile.mkdtemp(prefix="hatvid-tests-")
    before = {name: os.environ.get(name) for name in USER_FOLDERS}
    config.stash[PRIVATE_FOLDERS] = (root, before)
    for name, folder in USER_FOLDERS.items():
        os.environ[name] = str(Path(root, folder))
    # A worker of pytest-xdist is started by a session that has a bare PATH itself.
    own: str = getattr(config, "workerinput", {}).get("path", os.environ["PATH"])
    config.stash[WHOLE_PATH] = own
    if os.name == "posix":
        os.environ["PATH"] = bare_path(Path(root, "bin"), own)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["path"] = node.config.stash[WHOLE_PATH]


def pytest_unconfigure(config: pytest.Config) -> None:
    os.environ["PATH"] = config.stash[WHOLE_PATH]
    root, before = config.stash[PRIVATE_FOLDERS]
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    shutil.rmtree(root, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # All fixtures, those of fixtures included.
        if debian.FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("media")
    # vs-mlrt's plugin brings an OpenVINO library of its own, and of two the first one that is
    # loaded serves both: which test uses VapourSynth first must not matter.
    with suppress(ImportError, OSError):
        importlib.import_module("hatvid.engine.openvino")


def missing_hardware(item: pytest.Item) -> str | None:
    """What a marked test needs and this machine lacks, or None."""
    cuda = item.get_closest_marker("needs_cuda") is not None
    tensorrt = item.get_closest_marker("needs_tensorrt") is not None
    if not (cuda or tensorrt):
        return None
    import torch

    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU here"
    if tensorrt and importlib.util.find_spec("torch_tensorrt") is None:
        return "torch-tensorrt is not installed (pip install 'hatvid[tensorrt]')"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("media") is None:
        return (yield)
    with debian.allowed(item.config.stash[WHOLE_PATH]):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = missing_hardware(item)
    if reason is None:
        return
    if item.config.getoption("--require-cuda") and item.get_closest_marker("needs_cuda"):
        pytest.fail(f"--require-cuda: {reason}", pytrace=False)
    item.stash[HARDWARE_SKIP] = True
    pytest.skip(reason)


def _forbid(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(FORBID_SKIPS) == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {FORBID_SKIPS}=1 forbids this: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not item.stash.get(HARDWARE_SKIP, False):
        _forbid(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    # A module that skips as a whole (importorskip) never reaches the hook above.
    report = yield
    _forbid(report)
    return report


@pytest.fixture(scope="session")
def ffprobe() -> Callable[..., dict[str, Any]]:
    """Debian's ffprobe as a function of its arguments, which gives the parsed JSON."""
    debian.need("ffprobe")
    return debian.ffprobe


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., bytes]:
    """Debian's ffmpeg as a function of its arguments, which gives its standard output."""
    debian.need("ffmpeg")
    return debian.ffmpeg


@pytest.fixture(scope="session")
def compiler() -> str:
    """A C++ compiler, which torch.compile and Triton look for by themselves."""
    return debian.need("g++", "clang++")


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser that needs no screen."""
    return debian.need("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def pyav() -> Callable[..., bytes]:
    """PyAV as a function of the arguments of ffmpeg's that the tests' clips need."""
    from pyav_cli import pyav

    return pyav


@pytest.fixture(scope="session")
def smallest_hat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the smallest HAT there can be, of scale 2."""
    import torch
    from safetensors.torch import save_file
    from smallest import smallest

    from hatvid.model.hat import HAT

    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("smallest") / "hat.safetensors"
    save_file({k: v.contiguous() for k, v in HAT(smallest()).state_dict().items()}, path)
    return path
