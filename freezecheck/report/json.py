"""The report as one JSON object; `docs/json.md` describes every key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from freezecheck.finding import Finding, Severity, Site

if TYPE_CHECKING:
    from freezecheck.chapters import Chapter
    from freezecheck.cost import Cost
    from freezecheck.probe.report import ProbeReport
    from freezecheck.report.linted import Linted
    from freezecheck.report.result import Report
    from freezecheck.report.stages import Row
    from freezecheck.snapshot import Group, Model, Optimizer, Param, Scheduler, Snapshot

VERSION = 1


def linted_to_dict(linted: Linted) -> dict[str, Any]:
    """What linting found."""
    from freezecheck.report.statistics import by_rule

    return {
        "version": VERSION,
        "command": "lint",
        "findings": [finding.to_dict() for finding in linted.findings],
        "files": linted.files,
        "skipped": linted.skipped,
        "calls_not_understood": linted.calls,
        "unfinished": list(linted.unfinished),
        "statistics": [
            {"code": code, "name": name, "severity": str(severity), "findings": number}
            for code, name, severity, number in by_rule(linted.findings)
        ],
        "summary": _summary(linted.findings),
    }


def _summary(findings: Sequence[Finding]) -> dict[str, int]:
    return {
        str(severity): sum(finding.severity == severity for finding in findings)
        for severity in sorted(Severity, reverse=True)
    }


def probe_to_dict(report: ProbeReport) -> dict[str, Any]:
    """What a probe found, and all that is needed to make the report again."""
    from freezecheck.plain import encode
    from freezecheck.records import replace

    return {
        "version": VERSION,
        "command": "probe",
        "zone": report.zone,
        "findings": [finding.to_dict() for finding in report.findings],
        "warmup": _whole(report.warmup),
        "trace": encode(replace(report.trace, warmup=None)),
        "left_out": list(report.left_out),
        "summary": _summary(report.findings),
    }


def cost_to_dict(cost: Cost) -> dict[str, Any]:
    """What `freezecheck probe --dry-run --output-format json` prints."""
    least, most = cost.seconds
    return {
        "version": VERSION,
        "command": "probe",
        "dry_run": True,
        **_whole(cost),
        "seconds": [least, most],
        "peak": cost.peak,
    }


def _whole(value: Any) -> Any:
    """As `encode`, with the fields that equal their default."""
    import dataclasses

    from freezecheck.plain import encode

    if isinstance(value, (list, tuple)):
        return [_whole(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {f.name: _whole(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return encode(value)


def report_to_dict(report: Report) -> dict[str, Any]:
    """The whole report. Positions in `optimizers` are what other keys refer to."""
    ranks = report.ran.ranks if report.ran else ()
    result: dict[str, Any] = {
        "version": VERSION,
        "command": "inspect",
        "findings": [finding.to_dict() for finding in report.findings],
        "models": [],
        "optimizers": [],
        "schedulers": [],
        "phases": [_chapter(chapter) for chapter in report.story],
        "left_out": list(report.left_out),
        "memory": _memory(report),
        "run": _run(report),
        "summary": _summary(report.findings),
    }
    for number, now in enumerate(report.snapshots):
        rank = ranks[number] if number < len(ranks) else now.rank
        offset = len(result["optimizers"])
        result["models"] += [_model(now, i, m, rank, offset) for i, m in enumerate(now.models)]
        result["optimizers"] += [
            _optimizer(now, i, o, rank, offset) for i, o in enumerate(now.optimizers)
        ]
        result["schedulers"] += [_scheduler(s, rank, offset) for s in now.schedulers]
    return result


def _memory(report: Report) -> dict[str, int] | None:
    memory = report.memory
    if memory is None:
        return None
    return {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer_state": memory.optimizer_state,
    }


def _chapter(chapter: Chapter) -> dict[str, Any]:
    return {
        "first_step": chapter.first,
        "last_step": chapter.last,
        "epoch": chapter.epoch,
        "trains": chapter.trains,
        "lrs": [_number(rate) for rate in chapter.rates],
        "changes": list(chapter.changes),
    }


def _run(report: Report) -> dict[str, Any] | None:
    ran = report.ran
    if ran is None:
        return None
    return {
        "command": ran.command,
        "outcome": ran.outcome,
        "seconds": round(ran.seconds, 3),
        "steps": ran.steps,
        "ended": ran.ended,
        "batches": ran.batches,
        "until": ran.until,
        "ranks": list(ran.ranks),
        "exit_status": ran.exit_status,
        "problem": ran.problem or None,
        "error_output": ran.error_output or None,
        "stood_at": [
            {**_place(stood.site), "function": stood.function, "rank": stood.rank}
            for stood in ran.stood
        ],
    }


def _model(
    now: Snapshot, index: int, model: Model, rank: int | None, offset: int
) -> dict[str, Any]:
    from freezecheck.report.stages import rows

    params = now.of_model(index)
    return {
        "label": model.label,
        "type": model.type,
        "wrappers": list(model.wrappers),
        "rank": rank,
        "training": model.training,
        **_sizes(params),
        "stages": [_stage(now, row, offset) for row in rows(now, index)],
    }


def _sizes(params: list[Param]) -> dict[str, int]:
    trainable = [p for p in params if p.trainable]
    return {
        "tensors": len(params),
        "parameters": sum(p.numel for p in params),
        "trainable_tensors": len(trainable),
        "trainable_parameters": sum(p.numel for p in trainable),
    }


def _stage(now: Snapshot, row: Row, offset: int) -> dict[str, Any]:
    (stage,) = row.stages
    return {
        "name": stage.name,
        "kind": stage.kind or None,
        "paths": list(stage.paths),
        "tensors": row.tensors,
        "parameters": row.parameters,
        "trainable_tensors": row.trainable_tensors,
        "trainable_parameters": row.trainable_parameters,
        "batchnorm": {mode: row.batchnorm[mode] for mode in ("train", "eval")},
        "dropout": {mode: row.dropout[mode] for mode in ("train", "eval")},
        "groups": [
            {
                "optimizer": offset + i,
                "group": j,
                "lr": _number(now.optimizers[i].groups[j].lr),
                "weight_decay": _number(now.optimizers[i].groups[j].weight_decay),
            }
            for i, j in row.places
        ],
        "next_step": {
            "moves": row.moving,
            "stays": dict(sorted(row.still.items())),
            "cannot_say": row.unknown,
        },
    }


def _optimizer(
    now: Snapshot, index: int, optimizer: Optimizer, rank: int | None, offset: int
) -> dict[str, Any]:
    return {
        "label": optimizer.label,
        "type": optimizer.type,
        "rank": rank,
        "replaced": index in now.superseded,
        "part_of": None if optimizer.part_of is None else offset + optimizer.part_of,
        **_place(optimizer.site),
        "groups": [
            _group(group, now.by_group[index, j]) for j, group in enumerate(optimizer.groups)
        ],
    }


def _group(group: Group, params: list[Param]) -> dict[str, Any]:
    return {
        "lr": _number(group.lr),
        "weight_decay": _number(group.weight_decay),
        **_sizes(params),
        "tensors_in_no_model": group.foreign,
        **_place(group.site),
    }


def _scheduler(scheduler: Scheduler, rank: int | None, offset: int) -> dict[str, Any]:
    driven = scheduler.optimizer
    return {
        "label": scheduler.label,
        "type": scheduler.type,
        "parts": [part.type for part in scheduler.parts],
        "rank": rank,
        "optimizer": None if driven is None else offset + driven,
        "last_epoch": scheduler.last_epoch,
        "base_lrs": [_number(lr) for lr in scheduler.base_lrs],
        "peak_lrs": [_number(lr) for lr in scheduler.peaks],
        **_place(scheduler.site),
    }


def _place(site: Site | None) -> dict[str, Any]:
    return {"path": site.path if site else None, "line": site.line if site else None}


def _number(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else None
