"""Calls and answers as the records of Flower messages, and back, with the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from kdrun.federation.flower.calls import Answer, Call
from kdrun.federation.messages import Arrays, Update

PLAIN = ("what", "run", "turn", "round", "best", "saved", "split", "which")
"""Fields of a call that are text and whole numbers."""


def call_records(call: Call) -> RecordDict:
    records = RecordDict({"call": ConfigRecord({name: getattr(call, name) for name in PLAIN})})
    return _with_arrays(records, call.arrays)


def call_of(records: RecordDict) -> Call:
    config = records.config_records["call"]
    return Call(**{name: config[name] for name in PLAIN}, arrays=_arrays(records))


def answer_records(answer: Answer) -> RecordDict:
    """Facts are JSON, which gives floats back as they were."""
    config: dict[str, Any] = {"chance": answer.chance, "ended": list(answer.ended)}
    if answer.facts is not None:
        config["facts"] = json.dumps(answer.facts)
    if answer.failure is not None:
        config["failure"] = answer.failure
    records = RecordDict()
    if answer.update is not None:
        config["samples"] = answer.update.samples
        _with_arrays(records, answer.update.arrays)
        records["losses"] = _numbers(answer.update.metrics)
    if answer.metrics is not None:
        records["metrics"] = _numbers(answer.metrics)
    records["answer"] = ConfigRecord(config)
    return records


def answer_of(records: RecordDict) -> Answer:
    config = records.config_records["answer"]
    found = {name: dict(record) for name, record in records.metric_records.items()}
    update = Update(_arrays(records), config["samples"], found["losses"]) if "samples" in config else None
    facts = json.loads(config["facts"]) if "facts" in config else None
    return Answer(facts, update, found.get("metrics"), config.get("failure"), config["chance"], tuple(config["ended"]))


def _numbers(values: Mapping[str, float]) -> MetricRecord:
    return MetricRecord({name: float(value) for name, value in values.items()})


def _with_arrays(records: RecordDict, arrays: Arrays) -> RecordDict:
    if arrays:
        records["arrays"] = ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})
    return records


def _arrays(records: RecordDict) -> dict[str, np.ndarray]:
    found = records.array_records.get("arrays") if "arrays" in records.array_records else None
    return {} if found is None else {name: array.numpy() for name, array in found.items()}
