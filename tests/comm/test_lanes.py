"""Who belongs to which lane, and what happens where a node cannot share memory."""

from __future__ import annotations

from typing import Any

import pytest

from distgrad.comm import run_ranks
from distgrad.comm import shared as module
from distgrad.comm.lanes import Lanes, open_lanes

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(("nodes", "lanes", "wires"), [
    ([2, 2], [0, 1, 0, 1], [(0, 2), (1, 3), (0, 2), (1, 3)]),
    ([1, 1, 1], [0, 0, 0], [(0, 1, 2)] * 3),
    ([2, 1], [0, 0, 0], [(0, 2), None, (0, 2)]),
    ([5, 2], [0, 0, 0, 1, 1, 0, 1], [(0, 5), None, None, (3, 6), None, (0, 5), (3, 6)]),
])
def test_each_lane_joins_one_rank_of_every_node(nodes: list[int], lanes: list[int], wires: list[Any]) -> None:
    def body(comm: Any) -> Any:
        found = open_lanes(comm, 64)
        assert isinstance(found, Lanes)
        begin, end = found.fellows
        local = found.memory.comm.rank
        assert begin <= local < end and (found.wire is not None) is (local == begin)
        assert found.count == min(nodes) and [len(ranks) for ranks in found.nodes] == nodes
        assert len(found.memory.blocks) == found.memory.comm.size == nodes[len(found.nodes[0]) <= comm.rank
                                                                          if len(nodes) == 2 else comm.rank]
        result = found.lane, found.wire and found.wire.ranks
        found.close()
        return result

    assert run_ranks(sum(nodes), body, nodes) == list(zip(lanes, wires, strict=True))


def test_one_node_without_shared_memory_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks hear the same reason, also those whose own node could."""
    plain = module.NodeMemory

    def refuse(comm: Any, *rest: Any) -> Any:
        return "no memory on the second machine" if comm.ranks[0] == 2 else plain(comm, *rest)

    monkeypatch.setattr(module, "NodeMemory", refuse)
    assert run_ranks(4, lambda comm: open_lanes(comm, 64), [2, 2]) == ["no memory on the second machine"] * 4
