"""Cards made of a few figures."""

from __future__ import annotations

from typing import Any

from kdrun.hardware.card import gates

DEPLOY = {"deadline_ms": None, "memory_mb": None, "worst_class_drop": 0.02}


def card(
    arm: str = "student",
    *,
    value: float | None = 0.9,
    p99: float | None = 1.0,
    joules: float | None = None,
    peak: float | None = 50.0,
    drop: float | None = 0.0,
    kind: str = "measured",
    deploy: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A whole card. drop: of the worst class; deploy: limits that are asked."""
    latency = {
        "p50_ms": p99 and 0.8 * p99,
        "p95_ms": p99 and 0.9 * p99,
        "p99_ms": p99,
        "jitter_ms": p99 and 0.2 * p99,
        "calls": 1000,
    }
    if kind == "estimate":
        latency = {"ms": p99, "method": "roofline", "error": -0.97, "measured_here_ms": 0.05}
    safety = {
        "worst_class": "8", "worst_class_recall": 0.8, "worst_class_drop": None if arm == "teacher" else drop,
        "largest_drop": None if arm == "teacher" else {"class": "3", "drop": 0.05}, "ece": 0.03,
        "inherited_errors": None if arm == "teacher" else 0.5, "inherited_errors_alone": 0.25 if arm == "student" else None,
        "teacher_errors": None if arm == "teacher" else 4, "critical": {},
    }  # fmt: skip
    found = {
        "arm": arm, "label": {"alone": "student alone"}.get(arm, arm), "part": None, "seed": 0, "unit": "image", "target": "local",
        "precision": "fp32", "runtime": "onnxruntime", "runtime_version": "1.32.0", "device": "cpu", "batch": 1, "kind": kind,
        "why": "it is whatever machine kdrun runs on", "machine": "a CPU", "quick": False, "latency": latency, "throughput": None,
        "memory": {"weights_bytes": 20_000, "peak_mb": peak, "runtime_mb": 40.0},
        "energy": joules and {"joules": joules, "method": "rapl", "estimate": False, "coverage": "cpu only"},
        "compute": {"macs": 1000, "parameters": 500},
        "quality": {"metric": "accuracy", "value": value, "torch_value": value, "retention": None},
        "robustness": None, "safety": safety, "generation": None,
        "export": {"format": "onnx", "files": ["network.onnx"], "sha256": {}, "bytes": 20_000, "max_difference": 1e-6,
                   "tolerance": 1e-4, "labels_agree": 1.0},
        "notes": {},
    } | more  # fmt: skip
    found["gates"] = gates.gates_of(found, DEPLOY | (deploy or {}))
    found["passed"] = gates.passed(found["gates"])
    return found
