"""Which partition a workflow belongs to. Fixed for the life of a namespace, so it is spelled once, here."""

from __future__ import annotations

from zlib import crc32


def partition_of(workflow_id: str, partitions: int) -> int:
    """`crc32(workflow id) mod P`."""
    return crc32(workflow_id.encode()) % partitions
