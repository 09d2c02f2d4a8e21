"""What is said of clients that the server of a federation divided into clusters."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from kdrun.parts import gains_of
from kdrun.present.units import size_text


def clusters_of(records: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Of the records of an arm, by seed; {} where nothing was clustered.

    rule       by which clients were divided
    counts     clusters by seed, after the last round; count: their mean
    members    clients of each cluster, by seed
    groups     hidden groups of the partition, None where it makes none
    agreement  adjusted Rand index against them, a mean over seeds; None where there are none
    collapsed  [seed, client, rounds]: clients that named one class for all public samples, and in how many rounds
    servers    how often a network of the server did so, or diverged, over seeds and rounds
    message    bytes of one answer of a client, by encoding
    """
    known = {seed: record["clusters"] for seed, record in records.items() if record.get("clusters")}
    if not known:
        return {}
    first = next(iter(known.values()))
    values = [found["agreement"] for found in known.values()]
    return {
        "rule": first["rule"],
        "counts": {str(seed): found["count"] for seed, found in known.items()},
        "members": {str(seed): members(found["of"]) for seed, found in known.items()},
        "count": statistics.fmean(found["count"] for found in known.values()),
        "groups": None if first["groups"] is None else len(set(first["groups"])),
        "agreement": None if None in values else statistics.fmean(values),
        "collapsed": [
            [seed, int(client), rounds]
            for seed, found in known.items()
            for client, rounds in found["collapsed"].items()
        ],
        "servers": sum(found["servers"] for found in known.values()),
        "message": first["message"],
    }


def cluster_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts of the result's clusters, for people."""
    gained = gains_of((summary.get("arms") or {}).get("student") or {})
    found = gained.get("clusters")
    if not found:
        return []
    counts = list(found["counts"].values())
    many = str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts)) + " by seed"
    text = f"{many}, clustering={found['rule']}"
    if found["groups"] is not None:
        text += f"; {found['groups']} hidden groups, adjusted Rand index {found['agreement']:.2f}"
        text += " (they were told: an upper bound)" if found["rule"] == "known" else ""
    rows = [("clusters", text)]
    for seed, clusters in found["members"].items():
        rows.append((f"clients, seed {seed}", " | ".join(" ".join(map(str, cluster)) for cluster in clusters)))
    one = ", ".join(f"{size_text(number)} {encoding}" for encoding, number in found["message"].items())
    rows.append(("one answer", f"{one}{_weights(gained.get('bytes') or {})}"))
    collapsed = [f"client {client}, seed {seed}: {rounds}" for seed, client, rounds in found["collapsed"]]
    if collapsed:
        rows.append(("collapsed", f"one class for all public samples, in rounds: {'; '.join(collapsed)}"))
    if found["servers"]:
        rows.append(("server collapsed", f"{found['servers']} times, of all clusters and rounds"))
    return rows


def members(labels: list[int]) -> list[list[int]]:
    """Clients of each cluster; -1 is none."""
    return [[c for c, label in enumerate(labels) if label == cluster] for cluster in sorted(set(labels) - {-1})]


def _weights(sent: Mapping[str, Any]) -> str:
    """; and all that was sent against private weights."""
    amounts = [sent.get(way) for way in ("up", "down", "private")]
    if None in amounts:
        return ""
    return f"; all that was sent: {size_text(amounts[0] + amounts[1])}, with private weights {size_text(amounts[2])}"
