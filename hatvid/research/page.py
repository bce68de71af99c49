"""One HTML page of a comparison: numbers, the plot, and the worst frames under a slider.

It needs no other file and no network, and says so to the browser (a content security
policy). Where it stands is in its address, as ``#frame=12&at=25&left=A&right=B``.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from string import Template

import torch
from PIL import Image
from torch import Tensor

from hatvid.resampling import resample
from hatvid.research.compare import MEASURES, Comparison

__all__ = ["page"]

_UNITS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "vmaf": "VMAF", "flicker": "flicker"}

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { margin: 1rem auto; max-width: 1400px; padding: 0 1rem; background: #181818;
  color: #ebebeb; font: 15px/1.45 system-ui, sans-serif; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; font-variant-numeric: tabular-nums; }
.plot svg { width: 100%; height: auto; background: #fff; border-radius: 4px; }
nav { margin: .6rem 0; display: flex; gap: .4rem; flex-wrap: wrap; align-items: center; }
button, select { font: inherit; background: #333; color: inherit; border: 1px solid #666;
  border-radius: 4px; padding: .2rem .6rem; }
button[aria-pressed=true] { background: #1b6ca8; }
#view { position: relative; overflow: hidden; line-height: 0; --at: 50%; }
#view img { width: 100%; image-rendering: pixelated; }
#right { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at)); }
#line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  margin-left: -1px; background: #fff; pointer-events: none; }
#slider { width: 100%; margin: .5rem 0; }
</style>
</head>
<body>
<h1>$title</h1>
$files
$summary
$notes
<h2>Over the frames</h2>
<div class="plot">$plot</div>
<h2>The worst frames</h2>
<p>$chosen The slider uncovers the right picture; arrow keys move it.</p>
<nav id="frames"></nav>
<nav><label>left <select id="left-of"></select></label>
<label>right <select id="right-of"></select></label><span id="numbers"></span></nav>
<div id="view"><img id="left" alt=""><img id="right" alt=""><div id="line"></div></div>
<input id="slider" type="range" min="0" max="100" step="0.5" value="50" aria-label="slider">
<script type="application/json" id="data">$data</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const state = {frame: data.frames[0].number, at: 50, left: data.left, right: data.right};
for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
  if (key === "frame" && data.frames.some((f) => f.number === +value)) state.frame = +value;
  if (key === "at" && value >= 0 && value <= 100) state.at = +value;
  if ((key === "left" || key === "right") && data.labels.includes(value)) state[key] = value;
}
for (const frame of data.frames) {
  const button = document.createElement("button");
  button.textContent = frame.words;
  button.dataset.number = frame.number;
  button.onclick = () => { state.frame = frame.number; show(); };
  by("frames").append(button);
}
for (const side of ["left", "right"]) {
  const select = by(side + "-of");
  for (const label of data.labels) select.add(new Option(label, label));
  select.onchange = () => { state[side] = select.value; show(); };
}
by("slider").oninput = () => { state.at = +by("slider").value; show(); };
function show() {
  const frame = data.frames.find((f) => f.number === state.frame);
  for (const side of ["left", "right"]) {
    by(side).src = frame.pictures[state[side]];
    by(side).alt = state[side] + ", frame " + frame.number;
    by(side + "-of").value = state[side];
  }
  for (const button of by("frames").children)
    button.setAttribute("aria-pressed", +button.dataset.number === state.frame);
  by("numbers").textContent = frame.numbers;
  by("slider").value = state.at;
  by("view").style.setProperty("--at", state.at + "%");
  document.body.dataset.frame = state.frame;
  history.replaceState(null, "", "#" + new URLSearchParams(state));
}
show();
</script>
</body>
</html>
""")


def page(
    found: Comparison,
    pictures: Mapping[str, Mapping[int, Tensor]],
    shown: Sequence[int],
    *,
    svg: bytes,
    chosen: str,
) -> bytes:
    """Write the page.

    Args:
        found: what was measured.
        pictures: by label and number, each (1, 3, H, W) RGB in [0, 1]; smaller ones are
            shown enlarged to the largest, bicubic.
        shown: the frames, in the order of their buttons; at least one.
        svg: the plot, as matplotlib writes it.
        chosen: how they were chosen, a sentence.
    """
    height, width = max(
        (tuple(picture.shape[2:]) for few in pictures.values() for picture in few.values()),
        key=lambda size: size[0] * size[1],
    )
    frames = [
        {
            "number": number,
            "words": f"frame {number}{_time(found.seconds[number])}",
            "numbers": _numbers(found, number),
            "pictures": {
                label: _data_url(resample(few[number], height, width))
                for label, few in pictures.items()
            },
        }
        for number in shown
    ]
    labels = list(pictures)
    data = {
        "frames": frames,
        "labels": labels,
        "left": found.reference if found.reference == "A" else "A",
        "right": "B",
    }
    title = escape(f"{found.files['A'].name} and {found.files['B'].name}")
    text = _PAGE.substitute(
        title=title,
        files=_files(found),
        summary=_summary(found),
        notes="".join(f"<p>{escape(note)}.</p>" for note in found.notes),
        plot=svg.decode()[svg.decode().index("<svg") :],
        chosen=escape(chosen),
        data=json.dumps(data),  # numbers and pictures, no text of a file
    )
    return text.encode("utf-8", "replace")


def _files(found: Comparison) -> str:
    rows = []
    for label, path in found.files.items():
        width, height = found.sizes[label]
        role = " (reference)" if label == found.reference else ""
        rows.append(f"<tr><th>{label}{role}</th><td>{escape(str(path))}</td>")
        rows.append(f"<td>{width}x{height}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _summary(found: Comparison) -> str:
    names = [name for name in MEASURES if name in found.measured[0].summary()]
    head = "".join(f"<th>{_UNITS[name]}</th>" for name in names)
    rows = []
    for one in found.measured:
        numbers = one.summary()
        cells = "".join(f"<td>{_digits(numbers[name])}</td>" for name in names)
        rows.append(f"<tr><th>{one.label} against {found.reference}</th>{cells}</tr>")
    words = f"{len(found.seconds)} frames, measured at {found.width}x{found.height}"
    return f"<table><tr><th>{words}</th>{head}</tr>{''.join(rows)}</table>"


def _numbers(found: Comparison, number: int) -> str:
    parts = []
    for one in found.measured:
        values = (
            f"{_UNITS[name]} {_digits(one.of(name)[number])}" for name in MEASURES if one.of(name)
        )
        parts.append(f"{one.label}: {', '.join(values)}")
    return "; ".join(parts)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f" ({seconds:.2f} s)"


def _digits(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "equal"


def _data_url(rgb: Tensor) -> str:
    codes = (rgb[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(codes).save(file, format="WebP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
