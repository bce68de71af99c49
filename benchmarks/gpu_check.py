"""Does an NVIDIA GPU compute HAT's picture, and how fast? One run of about five minutes.

    python benchmarks/gpu_check.py --out gpu_check.json

Steps, each written to the JSON file as soon as it is done: versions and what the GPU reaches;
the form check of each network, attention kernel and precision (a failure ends the run with
exit code 1); the tests that need a GPU; attention kernels alone; captured networks at
several sizes; where a replay spends its time; a whole job. The table comes last.

It needs torch, numpy, safetensors and psutil, and the source tree; a step whose packages are
missing says "not run". ``--device cpu`` takes the same way on the CPU's twin of the engine,
``--tiny`` with networks and sizes that take seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from hatvid.engine import (  # noqa: E402
    KERNELS,
    ResolvedEngine,
    TileSpec,
    build_engine,
    build_runtime,
)
from hatvid.engine.calibration import device_facts  # noqa: E402
from hatvid.engine.checks import ROUNDING, continued  # noqa: E402
from hatvid.engine.settings import full_precision  # noqa: E402
from hatvid.engine_selection import EngineSelection  # noqa: E402
from hatvid.errors import EngineError, OutOfMemoryError  # noqa: E402
from hatvid.model.calibration import calibration_picture  # noqa: E402
from hatvid.model.checkpoint import load_checkpoint  # noqa: E402
from hatvid.model.forms import Forms  # noqa: E402
from hatvid.model.hat import HAT, HATConfig  # noqa: E402
from hatvid.options import EngineOptions  # noqa: E402

PRECISIONS = ("fp32", "fp16", "bf16")
SCALE = 4


# ---- networks ----------------------------------------------------------------------------


def nano() -> HAT:
    """The embedded network, with the weights that users get."""
    return load_checkpoint(ROOT / "hatvid/model/weights/hat-nano-x4.safetensors").eval()


def drawn(config: HATConfig, seed: int = 1) -> HAT:
    """A HAT with weights by which no part of it is too small to be seen in the output.

    Drawn by numpy on the CPU: the same on every machine, whatever PyTorch it has.
    """
    network = HAT(config).eval().requires_grad_(False)
    random = np.random.default_rng(seed)

    def normal(value: Tensor, std: float) -> Tensor:
        return torch.from_numpy(random.standard_normal(tuple(value.shape), np.float32) * std)

    for name, value in network.named_parameters():
        if name.endswith("relative_position_bias_table") or ".attention." in name:
            new = normal(value, 1.0)
            if name.endswith("attention.1.bias"):
                new = new.abs() + 1  # of few hidden channels none may lie behind a dead ReLU
        elif "norm" in name and name.endswith("weight"):
            new = torch.from_numpy(random.uniform(0.5, 2.0, tuple(value.shape)).astype(np.float32))
        elif name.endswith("bias"):
            new = normal(value, 0.3)
        else:
            new = normal(value, value[0].numel() ** -0.5)
        value.copy_(new)
    last = network.conv_last
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight *= 0.2 / float(network(calibration_picture()[..., :32, :32]).std())
        last.bias.zero_()
    return network


def checked_networks(*, tiny: bool) -> dict[str, Callable[[], HAT]]:
    """By name, those whose pictures are checked. HAT has two of its 36 blocks: the others are
    like them, and references on a CPU would take minutes."""
    if tiny:
        config = HATConfig(
            embed_dim=24, depths=(2,), num_heads=(2,), squeeze_factor=6, num_feat=8, upscale=SCALE
        )
        return {"tiny": lambda: drawn(config)}
    return {
        "hat-nano": nano,
        "HAT-S": lambda: drawn(HATConfig.hat_s(SCALE)),
        "HAT, 2 blocks": lambda: drawn(replace(HATConfig.hat(SCALE), depths=(2,), num_heads=(6,))),
    }


def timed_networks(*, tiny: bool) -> dict[str, Callable[[], HAT]]:
    """By name, those that are timed."""
    if tiny:
        return checked_networks(tiny=True)
    return {
        "hat-nano": nano,
        "HAT-S": lambda: drawn(HATConfig.hat_s(SCALE)),
        "HAT": lambda: drawn(HATConfig.hat(SCALE)),
    }


# ---- the run -----------------------------------------------------------------------------


@dataclass
class Run:
    """What has been found so far.

    Args:
        device: that is looked at.
        out: the JSON file, written after each step.
        tiny: with small networks and sizes.
        until: on :func:`time.monotonic`'s clock; later steps are left out.
    """

    device: torch.device
    out: Path
    tiny: bool
    until: float

    def __post_init__(self) -> None:
        self.found: dict[str, Any] = {"finished": False}

    @property
    def engine(self) -> str:
        """The engine that records: a GPU's, or its twin on a CPU."""
        return "cudagraph" if self.device.type == "cuda" else "replay"

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    def keep(self, step: str, value: Any) -> None:
        """Write a step's result, and all before it, to the file."""
        self.found[step] = value
        self.out.parent.mkdir(parents=True, exist_ok=True)
        part = self.out.with_name(self.out.name + ".part")
        part.write_text(json.dumps(self.found, indent=1, default=str) + "\n", encoding="utf-8")
        part.replace(self.out)

    def resolved(self, **more: Any) -> ResolvedEngine:
        """A recording engine in a GPU's layout."""
        facts: dict[str, Any] = {"engine": self.engine, "precision": "fp32", "layout": "gpu"}
        return ResolvedEngine(**(facts | more), device=self.device, threads=torch.get_num_threads())

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], rounds: int = 5) -> float:
        """The median of some runs, after one that does not count."""
        work()
        times = []
        for _ in range(1 if self.tiny else rounds):
            self.synchronize()
            start = time.perf_counter()
            work()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def versions(run: Run) -> dict[str, Any]:
    """Of what computes, and of the GPU."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": device_facts(run.device),
        "commit": _commit(),
    }
    with suppress(ImportError):
        import triton  # type: ignore[import-untyped]

        found["triton"] = triton.__version__
    if run.on_gpu:
        facts = torch.cuda.get_device_properties(run.device)
        found["capability"] = f"{facts.major}.{facts.minor}"
        found["memory_gb"] = round(facts.total_memory / 1e9, 1)
        found["multiprocessors"] = facts.multi_processor_count
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return found


def _commit() -> str:
    """Of the source tree."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def rates(run: Run) -> dict[str, float]:
    """What the device reaches: copies in GB/s (read and written), products in TFLOP/s."""
    size = 2**20 if run.tiny else 2**28
    source = torch.empty(size, dtype=torch.float32, device=run.device)
    target = torch.empty_like(source)
    seconds = run.seconds(lambda: target.copy_(source))
    found = {"copy_gb_s": round(2 * source.nbytes / seconds / 1e9, 1)}
    side = 256 if run.tiny else 8192
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        a = torch.ones(side, side, dtype=dtype, device=run.device)
        with full_precision():
            seconds = run.seconds(lambda a=a: a @ a)  # type: ignore[misc]
        found[f"{name}_tflop_s"] = round(2 * side**3 / seconds / 1e12, 2)
    return found


def correctness(run: Run) -> Iterator[dict[str, Any]]:
    """The form check of each network, attention kernel and precision."""
    for network, make in checked_networks(tiny=run.tiny).items():
        model = make()
        selection = EngineSelection(
            Forms(model),
            run.resolved(),
            EngineOptions(),
            scale=model.scale,
            factory=build_engine,
            fingerprint=None,
        )
        for precision in PRECISIONS:
            for kernel in KERNELS:
                if (kernel, precision) == ("cudnn", "fp32"):
                    continue  # it has no fp32
                candidate = run.resolved(kernel=kernel, precision=precision)
                row: dict[str, Any] = {"network": network, "precision": precision, "kernel": kernel}
                try:
                    figures = selection.checks.measure_form(candidate)
                except EngineError as error:
                    # That a kernel is not to be had is no wrong picture, where another is.
                    yield row | {"passed": None, "error": str(error)}
                    continue
                passed = figures.fp32 is None or figures.fp32 >= selection.checks.fp32_bar
                if figures.floor is not None:
                    passed = passed and figures.snr >= figures.floor - ROUNDING
                yield row | asdict(figures) | {"passed": passed}


def tests(run: Run) -> dict[str, Any] | str:
    """``pytest -m needs_cuda``."""
    if not run.on_gpu:
        return "not run: no GPU"
    if importlib.util.find_spec("pytest") is None:
        return "not run: pytest is not installed"
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-m", "needs_cuda", "--require-cuda"),
        *("-p", "no:cacheprovider", "tests/engine", "tests/model", "tests/test_tile_runner.py"),
    ]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(10.0, min(90.0, run.left() / 3)),
        )
    except subprocess.TimeoutExpired as error:
        return f"not finished after {error.timeout:.0f} s"
    return {"exit": done.returncode, "tail": done.stdout.splitlines()[-15:]}


def attention(run: Run) -> Iterator[dict[str, Any]]:
    """Each attention kernel alone, by windows and heads."""
    from hatvid.model.attention import WindowAttention, WindowTables

    sizes = [(32, 32)] if run.tiny else [(256, 256), (720, 1280)]
    shapes = [(24, 2)] if run.tiny else [(48, 3), (144, 6), (192, 6)]
    dtype = torch.float16 if run.on_gpu else torch.float32
    runtime = build_runtime(run.resolved())
    assert runtime is not None
    for height, width in sizes:
        height, width = -(-height // 16) * 16, -(-width // 16) * 16
        tables = WindowTables(height, width).to(run.device)
        for channels, heads in shapes:
            block = WindowAttention(channels, heads, shift_size=8).to(run.device, dtype).eval()
            x = torch.randn(1, height * width, channels, device=run.device, dtype=dtype)
            for kernel in KERNELS:
                block.attention = "triton" if kernel == "triton" else "sdpa"
                row = {"size": f"{width}x{height}", "channels": channels, "kernel": kernel}
                try:
                    with torch.no_grad(), runtime.attention(kernel):
                        block.prepare(tables)
                        seconds = run.seconds(lambda: block(x, tables))  # noqa: B023
                    yield row | {"ms": round(1000 * seconds, 3)}
                except RuntimeError as error:
                    yield row | {"error": str(error).partition("\n")[0]}


def replays(run: Run) -> Iterator[dict[str, Any]]:
    """Captured networks: time, start and memory of each size and batch."""
    precision = "fp16" if run.on_gpu else "fp32"
    sizes: Sequence[tuple[int, int, int]] = [(256, 256, n) for n in (1, 2, 4, 8)]
    sizes = [(180, 320, 1), *sizes, (720, 1280, 1)]
    if run.tiny:
        sizes = [(16, 32, 1), (16, 16, 2)]
    for network, make in timed_networks(tiny=run.tiny).items():
        forms = Forms(make())
        for height, width, batch in sizes:
            for kernel in ("efficient", "triton"):
                row = {
                    **{"network": network, "precision": precision, "kernel": kernel},
                    **{"size": f"{width}x{height}", "batch": batch},
                }
                if run.left() < 20 and not run.tiny:
                    yield row | {"error": "not run: no time left"}
                    continue
                yield row | _replay(run, forms, height, width, batch, kernel, precision)
        if run.on_gpu:
            yield _published(run, network, forms.published)


def _replay(
    run: Run, forms: Forms, height: int, width: int, batch: int, kernel: str, precision: str
) -> dict[str, Any]:
    spec = TileSpec(batch=batch, height=height, width=width, scale=SCALE, device=run.device)
    candidate = run.resolved(kernel=kernel, precision=precision)
    network = forms.form(precision, padded=True, channels_last=True, fused=kernel == "triton")
    if run.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(run.device)
    start = time.perf_counter()
    try:
        engine = build_engine(network, spec, candidate, None)
    except OutOfMemoryError:
        return {"error": "does not fit"}
    except EngineError as error:
        return {"error": str(error)}
    try:
        tiles = continued(calibration_picture(), spec)
        built = time.perf_counter() - start
        seconds = run.seconds(lambda: engine.run(tiles))
        found = {"ms": round(1000 * seconds, 2), "start_s": round(built, 2)}
        if run.on_gpu:
            found["memory_gb"] = round(torch.cuda.max_memory_reserved(run.device) / 1e9, 2)
        return found
    finally:
        engine.close()


def _published(run: Run, name: str, ours: nn.Module) -> dict[str, Any]:
    """The published network in bf16 autocast, as others run it, at 320x180."""
    row = {"network": name, "precision": "bf16", "kernel": "published", "size": "320x180"}
    if importlib.util.find_spec("spandrel") is None:
        return row | {"error": "not run: spandrel is not installed"}
    from hatvid.bench.networks import published

    assert isinstance(ours, HAT)
    theirs = published(ours.config).to(run.device)
    x = torch.rand(1, 3, 192, 320, device=run.device)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        return row | {"ms": round(1000 * run.seconds(lambda: theirs(x)), 2)}


def profiled(run: Run) -> list[str]:
    """Where a replay of the largest network spends its time, kernel by kernel."""
    from torch.profiler import ProfilerActivity, profile

    name, make = list(timed_networks(tiny=run.tiny).items())[-1]
    side = 16 if run.tiny else 256
    precision = "fp16" if run.on_gpu else "fp32"
    forms = Forms(make())
    spec = TileSpec(batch=1, height=side, width=side, scale=SCALE, device=run.device)
    candidate = run.resolved(kernel="triton", precision=precision)
    network = forms.form(precision, padded=True, channels_last=True, fused=True)
    engine = build_engine(network, spec, candidate, None)
    try:
        tiles = continued(calibration_picture(), spec)
        engine.run(tiles)
        activity = ProfilerActivity.CUDA if run.on_gpu else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiler:
            engine.run(tiles)
            run.synchronize()
    finally:
        engine.close()
    by = "cuda_time_total" if run.on_gpu else "cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=60)
    return [f"{name}, {side}x{side}, {precision}", *table.splitlines()]


def whole_job(run: Run) -> dict[str, Any] | str:
    """The demo's clip through the command, verified."""
    missing = [m for m in ("av", "platformdirs", "pydantic") if importlib.util.find_spec(m) is None]
    if missing:
        return f"not run: {', '.join(missing)} not installed"
    if not run.on_gpu:
        return "not run: the tests have it on a CPU"
    import tempfile

    import hatvid

    with tempfile.TemporaryDirectory() as folder:
        receipt = hatvid.upscale(
            ROOT / "tests/data/bunny_320x180.mp4", Path(folder, "out.mp4"), device=str(run.device)
        )
    return receipt.as_dict()


# ---- what is printed ---------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of like keys, as text."""
    if not rows:
        return "nothing"
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps; 1 where a picture is wrong, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="JSON file")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for the twin")
    parser.add_argument("--tiny", action="store_true", help="networks and sizes of seconds")
    parser.add_argument("--minutes", type=float, default=5.0, help="later steps are left out")
    given = parser.parse_args(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            "gpu_check: PyTorch sees no NVIDIA GPU here; --device cpu runs the twin",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda:0" if given.device == "cuda" else given.device)
    run = Run(device, given.out, given.tiny, time.monotonic() + 60 * given.minutes)
    run.keep("versions", versions(run))
    run.keep("rates", rates(run))
    rows: list[dict[str, Any]] = []
    for row in correctness(run):
        rows.append(row)
        run.keep("correctness", rows)
        print(table([row]), flush=True)
    wrong = [row for row in rows if row["passed"] is False]
    # A network none of whose kernels can be built has no picture at all.
    networks = {row["network"] for row in rows}
    wrong += [
        {"network": name, "error": "no kernel can be built"}
        for name in networks
        if not any(row["passed"] for row in rows if row["network"] == name)
    ]
    run.keep("wrong", wrong)
    if wrong:
        print("\nWRONG PICTURES:\n" + table(wrong), file=sys.stderr)
        return 1
    steps: dict[str, Callable[[Run], Any]] = {
        "tests": tests,
        "attention": lambda run: list(attention(run)),
        "replays": lambda run: list(replays(run)),
        "profile": profiled,
        "job": whole_job,
    }
    for name, step in steps.items():
        if run.left() <= 0:
            run.keep(name, "not run: no time left")
            continue
        try:
            run.keep(name, step(run))
        except Exception as error:  # one step's failure must not cost the others
            run.keep(name, f"failed: {type(error).__name__}: {error}")
    run.keep("finished", True)
    _print(run)
    return 0


def _print(run: Run) -> None:
    found = run.found
    print(table([found["versions"]]), table([found["rates"]]), sep="\n")
    for name in ("correctness", "attention", "replays"):
        value = found[name]
        print(f"\n{name}\n{table(value) if isinstance(value, list) else value}")
    for name in ("profile", "tests", "job"):
        value = found[name]
        print(f"\n{name}\n" + ("\n".join(value) if isinstance(value, list) else str(value)))
    print(f"\nWritten to {run.out.resolve()}")


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
