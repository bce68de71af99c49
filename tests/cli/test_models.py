"""``hatvid models``: list, show, pull, verify."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hatvid.model.catalog import KNOWN, KnownModel


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pulled models, empty."""
    path = tmp_path / "models"
    monkeypatch.setenv("HATVID_MODELS", str(path))
    return path


@pytest.fixture
def tiny(checkpoints: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A known model whose file a server here has; the address that serves it."""
    data = checkpoints[4].read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    model = KnownModel(
        name="tiny-x4",
        scale=4,
        filename="tiny.safetensors",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        network="HAT",
        about="of this test",
        licence="none",
        mirrors=("https://example.invalid/tiny.safetensors",),
    )
    monkeypatch.setitem(KNOWN, model.name, model)
    yield f"http://127.0.0.1:{server.server_port}/tiny.safetensors"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_list_says_what_is_here(hatvid: Callable[..., Any]) -> None:
    done = hatvid("models", "list")
    assert done.code == 0
    lines = {line.split()[0]: line for line in done.out.splitlines() if "  x" in line}
    assert set(lines) == set(KNOWN)
    assert "embedded" in lines["hat-nano-x4"]
    assert "not here" in lines["hat-l-x4"]
    rows = {row["name"]: row for row in json.loads(hatvid("models", "list", "--json").out)}
    assert rows["hat-l-x4"]["mirrors_tried"] is False
    assert rows["hat-l-x4"]["path"] is None
    assert "mirrors_tried" not in rows["hat-nano-x4"]


def test_what_is_known_of_one(hatvid: Callable[..., Any], checkpoints: dict[int, Path]) -> None:
    facts = json.loads(hatvid("models", "show", "hat-nano-x4", "--json").out)
    assert facts["parameters"] == 488_977
    assert "embed_dim = 48" in facts["config"]
    done = hatvid("models", "show", "hat-s-x2")
    assert done.code == 0
    assert "have not tried" in done.out
    facts = json.loads(hatvid("models", "show", checkpoints[2], "--json").out)
    assert (facts["architecture"], facts["scale"]) == ("HAT", 2)
    done = hatvid("models", "show", "hat-nanox4")
    assert done.code == 2
    assert "did you mean hat-nano-x4" in done.err


def test_pulled_used_damaged_and_pulled_again(
    hatvid: Callable[..., Any], clip: Path, tiny: str, folder: Path
) -> None:
    done = hatvid("upscale", clip, "-o", folder.parent / "x.mp4", "--model", "tiny-x4")
    assert done.code == 1
    assert "fetch it with: hatvid models pull tiny-x4" in done.err
    done = hatvid("models", "pull", "tiny-x4", "--from", tiny)
    assert done.code == 1
    assert "--insecure-http" in done.err
    done = hatvid("models", "pull", "tiny-x4", "--from", tiny, "--insecure-http")
    assert (done.code, done.err) == (0, "")
    path = folder / "tiny.safetensors"
    assert str(path) in done.out
    done = hatvid("models", "verify")
    assert done.code == 0
    assert [line.split()[1] for line in done.out.splitlines()] == [
        "hat-nano-x2",
        "hat-nano-x3",
        "hat-nano-x4",
        "tiny-x4",
    ]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = hatvid("models", "verify", "tiny-x4", "hat-nano-x4")
    assert done.code == 1
    assert done.out.splitlines()[0].startswith("FAILED")
    assert "hatvid models pull tiny-x4" in done.out
    assert done.out.splitlines()[1].startswith("ok")
    assert hatvid("models", "pull", "tiny-x4", "--from", tiny, "--insecure-http").code == 0
    assert hatvid("models", "verify", "tiny-x4").code == 0


def test_a_checkpoint_of_ones_own_is_verified(
    hatvid: Callable[..., Any], checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.safetensors"
    shutil.copyfile(checkpoints[2], mine)
    assert hatvid("models", "verify", mine).code == 0
    mine.write_bytes(mine.read_bytes()[:-100])
    done = hatvid("models", "verify", mine)
    assert done.code == 1
    assert "damaged" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["pull"], 2, "nothing to pull"),
        (["pull", "no-such"], 2, "no model is called"),
        (["pull", "hat-x4", "hat-l-x4", "--from", "https://a.invalid/x"], 2, "name one model"),
        (["verify", "no-such"], 2, "no model is called"),
        (["show", "gone.pth"], 1, "no checkpoint at gone.pth"),
    ],
)
def test_what_is_refused(
    hatvid: Callable[..., Any], arguments: list[str], code: int, text: str
) -> None:
    done = hatvid("models", *arguments)
    assert done.code == code
    assert text in done.err
    assert len(done.err.splitlines()) == 1


def test_what_comes_with_hatvid_is_not_pulled(hatvid: Callable[..., Any], folder: Path) -> None:
    done = hatvid("models", "pull", "hat-nano-x4")
    assert (done.code, done.out) == (0, "hat-nano-x4 comes with hatvid\n")
    assert not folder.exists()
