"""What a batch will do, file by file: names settled and checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hatvid.errors import HatvidError, OptionError, OutputExistsError
from hatvid.jobs.batch_names import Draft, Request, draft_of, is_own_output
from hatvid.jobs.checks import few
from hatvid.jobs.finding import Found, Stamp, find, stamp_of
from hatvid.jobs.job import plan_job
from hatvid.jobs.naming import folded, ignores_case
from hatvid.options import JobOptions

__all__ = ["BatchPlan", "Row", "State", "gather", "plan_rows"]

State = Literal["not started", "done", "skipped", "failed", "stopped"]


@dataclass(kw_only=True)
class Row:
    """One job of a batch, and what became of it.

    Args:
        number: from 1.
        found: its input.
        request: that it comes from.
        options: ready to be planned, None if that failed.
        before: what lay under the output's name when the batch was planned.
        state: of it.
        reason: why it is not done.
        code: what ``hatvid upscale`` would have exited with.
        seconds: that it took, the network loaded and the output verified.
        receipt: of the job, as plain values.
    """

    number: int
    found: Found
    request: Request
    options: JobOptions | None = None
    before: Stamp | None = None
    state: State = "not started"
    reason: str = ""
    code: int = 0
    seconds: float = 0.0
    receipt: dict[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> Path:
        return self.found.path

    @property
    def output(self) -> Path | None:
        return None if self.options is None else self.options.output

    def fail(self, reason: str, code: int) -> None:
        """Note why it is not done."""
        where = f"{self.request.where}: " if self.request.where else ""
        self.state, self.reason, self.code = "failed", f"{where}{reason}", code

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "job": self.number,
            "input": str(self.input),
            "output": None if self.output is None else str(self.output),
            "where": self.request.where or None,
            "state": self.state,
            "reason": self.reason or None,
            "exit_code": self.code,
            "seconds": round(self.seconds, 3),
            "frames": self.receipt.get("frames"),
            "notes": list(self.receipt.get("notes", ())),
            "receipt": self.receipt or None,
        }


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The jobs in order, and what the user should know."""

    rows: list[Row]
    notes: list[str]


Pair = tuple[Request, Found]


def gather(requests: Iterable[Request], notes: list[str]) -> list[Pair]:
    """Look for the inputs.

    Args:
        notes: what the user should know is added.

    Raises:
        InputError: a folder cannot be read.
        OptionError: a pattern is none, or one output is named for several inputs.
    """
    pairs = []
    for request in requests:
        try:
            leave = [request.folder] if request.folder is not None else []
            finding = find(
                request.text,
                seen_from=request.seen_from,
                recursive=request.recursive,
                leave=leave,
            )
            if request.output is not None and len(finding.inputs) > 1:
                raise OptionError(
                    f"{request.text} is {len(finding.inputs)} files, and output names one; use "
                    "naming"
                )
        except HatvidError as error:
            if not request.where:
                raise
            raise type(error)(f"{request.where}: {error}") from error
        notes += finding.notes
        pairs += [(request, found) for found in finding.inputs]
    return pairs


def plan_rows(
    pairs: Sequence[Pair],
    *,
    skip_existing: bool = False,
    growing: Collection[Path] = (),
    before: Sequence[Row] = (),
    one_by_one: bool = False,
) -> BatchPlan:
    """Settle the names of all outputs, and check all that needs no decoding.

    Own outputs that lie among the inputs are left out. What is wrong with one job is told
    in its row.

    Args:
        pairs: what :func:`gather` found.
        skip_existing: an output that is there is no error.
        growing: inputs that are not yet written to their end.
        before: jobs that are done already, whose outputs are no inputs.
        one_by_one: names that clash are told in their rows, too.

    Raises:
        OptionError: two jobs would write one file, or one would write over another's input.
    """
    scales: dict[str, int] = {}
    drafts: list[tuple[Request, Found, Draft | HatvidError]] = []
    for request, found in pairs:
        try:
            drafts.append((request, found, draft_of(request, found, scales)))
        except HatvidError as error:
            drafts.append((request, found, error))
    made = {_place(draft.output) for _, _, draft in drafts if isinstance(draft, Draft)}
    made |= {_place(row.output) for row in before if row.output is not None}
    rows: list[Row] = []
    own: list[str] = []
    for request, found, draft in drafts:
        if not found.named and isinstance(draft, Draft):
            itself = _place(draft.output) == _place(found.path)
            if (not itself and _place(found.path) in made) or is_own_output(request, found, draft):
                own.append(found.path.name)
                continue
        row = Row(number=len(before) + len(rows) + 1, found=found, request=request)
        rows.append(row)
        if isinstance(draft, HatvidError):
            row.fail(str(draft), draft.exit_code)
            continue
        row.options, row.before = (
            replace(draft.options, output=draft.output),
            stamp_of(draft.output),
        )
        if found.path in growing:
            row.state, row.reason = "skipped", "it is still being written"
            continue
        try:
            plan_job(row.options, makes_folder=True)
        except OutputExistsError as error:
            if skip_existing:
                row.state, row.reason = "skipped", "the output exists"
            else:
                row.fail(str(error), error.exit_code)
        except HatvidError as error:
            row.fail(str(error), error.exit_code)
    for row, reason in _clashes([*before, *rows]):
        if not one_by_one:
            raise OptionError(reason)
        if row.state == "not started":
            row.fail(reason, OptionError.exit_code)
    notes = []
    if own:
        notes.append(f"left alone, as outputs are named so: {few(own)}")
    return BatchPlan(rows=rows, notes=notes)


def _place(path: Path) -> Path:
    return Path(os.path.realpath(path.parent), path.name)


def _clashes(rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """Those that cannot have their output, and why."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.output is not None:
            groups.setdefault(folded(row.output), []).append(row)
    for group in groups.values():
        first = group[0]
        for other in group[1:]:
            assert first.output is not None
            assert other.output is not None
            same = _place(first.output) == _place(other.output)
            if same or ignores_case(first.output.parent):
                yield (
                    other,
                    f"{first.input} and {other.input} would both become {other.output}; name them "
                    "apart by --naming, or keep their folders apart by --recursive",
                )
    inputs = {os.path.realpath(row.input): row for row in rows}
    for row in rows:
        if row.state != "not started" or row.output is None:
            continue
        other = inputs.get(os.path.realpath(row.output), row)
        if other is not row:
            yield (
                row,
                f"{row.output} is an input, and the output of {row.input} too; choose another name",
            )
