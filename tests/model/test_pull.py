"""Pulling checkpoints from servers that break off, lie and point elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pytest

from hatvid.errors import CheckpointError
from hatvid.model import pull as module
from hatvid.model.catalog import KnownModel
from hatvid.model.pull import pull

DATA = bytes(range(256)) * 2048  # 512 KB
OTHER = DATA[::-1]


@dataclass
class Server:
    """What is served under each path, and what was asked for."""

    url: str
    answers: dict[str, Callable[[Any], None]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


def whole(data: bytes = DATA, **headers: str) -> Callable[[Any], None]:
    """An honest server, that knows ranges."""

    def answer(request: Any) -> None:
        asked = request.headers["Range"]
        version = headers.get("ETag")
        if asked and request.headers["If-Range"] in (None, version):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            start = 0
            request.send_response(200)
        request.send_header("Content-Length", str(len(data) - start))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data[start:])

    return answer


def cut(after: int, data: bytes = DATA, **headers: str) -> Callable[[Any], None]:
    """Promises all and closes the connection ``after`` bytes."""

    def answer(request: Any) -> None:
        asked = request.headers["Range"]
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0  # type: ignore[index]
        request.send_response(206 if asked else 200)
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data[start : start + after])
        request.close_connection = True

    return answer


def fixed(body: bytes, status: int = 200, **headers: str) -> Callable[[Any], None]:
    """One answer, whatever is asked for."""

    def answer(request: Any) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)
        request.close_connection = True

    return answer


def endless(request: Any) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(bytes(1 << 16))


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers["Range"]))
            # The client may have had enough.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                found.answers[self.path](self)

        def log_message(self, *args: Any) -> None: ...

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Server(f"http://127.0.0.1:{http_server.server_port}")
    thread = threading.Thread(target=http_server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    http_server.shutdown()
    http_server.server_close()
    thread.join()


def known(size: int | None = len(DATA), data: bytes = DATA) -> KnownModel:
    return KnownModel(
        name="tiny-x4",
        scale=4,
        filename="tiny.pth",
        sha256=hashlib.sha256(data).hexdigest(),
        size=size,
        network="HAT",
        about="of this test",
        licence="none",
        mirrors=("https://example.invalid/tiny.pth",),
    )


def fetch(server: Server, folder: Path, *paths: str, size: int | None = len(DATA)) -> Path:
    mirrors = [server.url + path for path in paths or ("/tiny.pth",)]
    return pull(known(size), folder, mirrors=mirrors, insecure=True)


def left(folder: Path) -> set[str]:
    """What lies in the folder, locks left out."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("size", [len(DATA), None], ids=["known", "unknown"])
def test_what_is_whole_gets_its_name(server: Server, tmp_path: Path, size: int | None) -> None:
    server.answers["/tiny.pth"] = whole()
    told: list[tuple[int, int | None]] = []
    path = pull(
        known(size),
        tmp_path / "deep" / "models",
        mirrors=[f"{server.url}/tiny.pth"],
        insecure=True,
        advanced=lambda done, total: told.append((done, total)),
    )
    assert path.read_bytes() == DATA
    assert left(path.parent) == {"tiny.pth"}
    assert told[-1] == (len(DATA), len(DATA))
    assert fetch(server, path.parent) == path
    assert len(server.asked) == 1, "asked for what was there"


def test_a_damaged_file_of_that_name_is_replaced(server: Server, tmp_path: Path) -> None:
    server.answers["/tiny.pth"] = whole()
    (tmp_path / "tiny.pth").write_bytes(OTHER)
    assert fetch(server, tmp_path).read_bytes() == DATA


def test_what_breaks_off_is_resumed_at_once(server: Server, tmp_path: Path) -> None:
    server.answers["/tiny.pth"] = cut(200_000)
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert [asked for _, asked in server.asked] == [None, "bytes=200000-", "bytes=400000-"]


def test_what_breaks_off_for_good_is_kept_for_the_next_run(server: Server, tmp_path: Path) -> None:
    server.answers["/tiny.pth"] = cut(0)
    first = cut(100_000, ETag='"1"')
    server.answers["/tiny.pth"] = lambda request: (
        first(request) if request.headers["Range"] is None else cut(0)(request)
    )
    with pytest.raises(CheckpointError, match="100000 bytes are kept") as caught:
        fetch(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tiny.pth").exists()
    server.asked.clear()
    server.answers["/tiny.pth"] = whole(ETag='"1"')
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert [asked for _, asked in server.asked] == ["bytes=100000-"]
    assert left(tmp_path) == {"tiny.pth"}


@pytest.mark.parametrize("told", [True, False], ids=["told by its ETag", "not told"])
def test_a_file_that_changed_meanwhile_is_not_glued_together(
    server: Server, tmp_path: Path, told: bool
) -> None:
    tags = ({"ETag": '"1"'}, {"ETag": '"2"'}) if told else ({}, {})
    (tmp_path / ".tiny.pth.part").write_bytes(OTHER[:100_000])
    (tmp_path / ".tiny.pth.version").write_text(f"{server.url}/tiny.pth\n{tags[0].get('ETag', '')}")
    server.answers["/tiny.pth"] = whole(**tags[1])
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert len(server.asked) == (1 if told else 2)


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".tiny.pth.part").write_bytes(DATA[:1000])
    server.answers["/tiny.pth"] = fixed(DATA, Content_Length=str(len(DATA)))
    assert fetch(server, tmp_path).read_bytes() == DATA


def test_a_part_that_is_whole_needs_no_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".tiny.pth.part").write_bytes(DATA)
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (whole(OTHER), "sent another file"),
        (whole(DATA + b"x"), f"offers {len(DATA) + 1} bytes instead of {len(DATA)}"),
        (whole(DATA[:-1]), f"offers {len(DATA) - 1} bytes instead of {len(DATA)}"),
        (fixed(DATA + b"x"), f"sends more than {len(DATA)} bytes"),
        (fixed(DATA[:-1]), "broke off after"),
        (endless, f"sends more than {len(DATA)} bytes"),
        (fixed(b"", 404), "HTTP 404"),
        (fixed(DATA, Content_Encoding="gzip"), "as gzip"),
        (fixed(b"", 302, Location="file:///etc/passwd"), "redirects to file"),
        (fixed(b"", 301, Location="ftp://127.0.0.1/tiny.pth"), "redirects to ftp"),
        (fixed(b"", 302, Location="/tiny.pth"), "HTTP 302"),
        (fixed(b"", 200, Content_Length="-5"), "broke off after 0"),
        (fixed(DATA, 206, Content_Range="bytes 7-9/10"), "another part"),
        (fixed(DATA, 206), "another part"),
    ],
    ids=lambda value: "" if callable(value) else str(value)[:24],
)
def test_a_server_that_lies_is_given_up_for_the_next_one(
    server: Server, tmp_path: Path, answer: Callable[[Any], None], reason: str
) -> None:
    server.answers["/tiny.pth"] = answer
    server.answers["/good.pth"] = whole()
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        fetch(server, tmp_path)
    assert not (tmp_path / "tiny.pth").exists()
    said: list[str] = []
    path = pull(
        known(),
        tmp_path,
        mirrors=[f"{server.url}/tiny.pth", f"{server.url}/good.pth"],
        insecure=True,
        said=said.append,
    )
    assert path.read_bytes() == DATA
    assert len(said) == 1
    assert reason in said[0]
    assert left(tmp_path) == {"tiny.pth"}


def test_a_body_that_does_not_end_is_left_even_where_the_size_is_unknown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 1_000_000)
    server.answers["/tiny.pth"] = endless
    with pytest.raises(CheckpointError, match="sends more than 1000000 bytes"):
        fetch(server, tmp_path, size=None)
    server.answers["/tiny.pth"] = fixed(b"", Content_Length="99999999999")
    with pytest.raises(CheckpointError, match="more than any checkpoint has"):
        fetch(server, tmp_path, size=None)
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/tiny.pth", "--insecure-http"),
        ("file:///etc/passwd", "file scheme"),
        ("ftp://127.0.0.1/x", "ftp scheme"),
        ("/etc/passwd", "no scheme"),
    ],
)
def test_https_only_unless_asked(tmp_path: Path, url: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        pull(known(), tmp_path, mirrors=[url])
    assert left(tmp_path) == set()


def test_https_is_not_left_for_http(tmp_path: Path) -> None:
    """By the rule itself: no server here speaks https."""
    redirects = module._Redirects()
    request = module.urllib.request.Request("https://example.invalid/tiny.pth")
    for address in ("http://example.invalid/tiny.pth", "file:///tiny.pth"):
        with pytest.raises(module._RefusedError, match="not followed"):
            redirects.redirect_request(request, None, 302, "", {}, address)  # type: ignore[arg-type]
    found = redirects.redirect_request(
        request,
        None,  # type: ignore[arg-type]
        302,
        "",
        {},  # type: ignore[arg-type]
        "https://elsewhere.invalid/x",
    )
    assert found is not None
    assert found.full_url == "https://elsewhere.invalid/x"


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    server.answers["/tiny.pth"] = fixed(b"", 302, Location="/other.pth")
    server.answers["/other.pth"] = whole()
    assert fetch(server, tmp_path).read_bytes() == DATA


def test_two_runs_do_not_write_one_file(server: Server, tmp_path: Path) -> None:
    server.answers["/tiny.pth"] = whole()
    with (
        filelock.FileLock(tmp_path / ".tiny.pth.lock"),
        pytest.raises(CheckpointError, match="another run"),
    ):
        fetch(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == DATA


def test_a_disk_that_is_too_small_is_told_before(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(tmp_path))(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    server.answers["/tiny.pth"] = whole()
    with pytest.raises(CheckpointError, match=r"524288 bytes are missing and 1000 are free"):
        fetch(server, tmp_path)
    assert left(tmp_path) == set()


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="HATVID_MODELS"):
        fetch(server, tmp_path / "file" / "models")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "mine").mkdir(mode=0o500)
        with pytest.raises(CheckpointError, match="HATVID_MODELS"):
            fetch(server, tmp_path / "mine")


def test_ctrl_c_keeps_what_came(server: Server, tmp_path: Path) -> None:
    server.answers["/tiny.pth"] = whole()

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(
            known(),
            tmp_path,
            mirrors=[f"{server.url}/tiny.pth"],
            insecure=True,
            advanced=stop,
        )
    assert left(tmp_path) == {".tiny.pth.part", ".tiny.pth.version"}
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert left(tmp_path) == {"tiny.pth"}


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be reached.*tiny\.pth into .* by hand"):
        pull(known(), tmp_path, mirrors=["http://127.0.0.1:1/tiny.pth"], insecure=True)
