"""A job ends with the proof, and an output that fails it does not get its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import hatvid
from hatvid.errors import VerificationError
from hatvid.options import EngineOptions

Run = Callable[..., None]
CLIP = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.4")
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


class Darker(nn.Module):
    """A network gone wrong."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) * 0.7


def test_an_output_of_another_picture_is_set_aside(pyav: Run, tmp_path: Path) -> None:
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    pyav(*CLIP, *X264, source)
    output.write_text("precious")
    with hatvid.Upscaler(
        Darker(), scale=2, engine_options=EngineOptions(engine="eager", threads=1)
    ) as wrong:
        for kept in ("out.unverified.mkv", "out.unverified2.mkv"):
            with pytest.raises(VerificationError, match=rf"in brightness.*{kept}, please look"):
                hatvid.upscale(source, output, upscaler=wrong, overwrite=True)
            found = hatvid.verify(source, tmp_path / kept)
            assert [check.name for check in found.failed] == ["pictures"]
        assert output.read_text() == "precious"
        # Whoever does not ask does not hear.
        receipt: Any = hatvid.upscale(
            source, output, upscaler=wrong, overwrite=True, verify="quick"
        )
        assert receipt.verification.ok
        receipt = hatvid.upscale(source, output, upscaler=wrong, overwrite=True, verify="none")
        assert receipt.verification is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.mkv",
        "out.mkv",
        "out.unverified.mkv",
        "out.unverified2.mkv",
    ]


def test_what_is_broken_in_the_input_is_told_and_holds_nothing_up(
    repeat: hatvid.Upscaler, pyav: Run, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.ts", tmp_path / "out.mkv"
    pyav(*CLIP, "-f", "lavfi", "-i", "sine=d=0.4", *X264, "-c:a", "aac", source)
    data = bytearray(source.read_bytes())
    middle = len(data) // 376 * 188
    data[middle + 10 : middle + 10] = data[middle : middle + 188 * 30 + 77]
    source.write_bytes(data)
    receipt: Any = hatvid.upscale(source, output, upscaler=repeat)
    assert output.exists()
    assert not receipt.verification.ok
    told = [note for note in receipt.notes if note.startswith("the input is damaged, and the")]
    assert len(told) == len(receipt.verification.failed)


def test_progress_is_a_whole_one(repeat: hatvid.Upscaler, pyav: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    pyav(*CLIP, *X264, source)

    class Half:
        def note(self, text: str) -> None: ...

    with pytest.raises(TypeError, match="Half lacks a method"):
        hatvid.upscale(source, upscaler=repeat, progress=Half())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [source]
