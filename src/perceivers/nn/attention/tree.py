"""A tree of states: the state of all elements when some of them change.

Leaves are the states of blocks of elements; a node is the two below it merged. A block that changed is read anew, and
the nodes above it are merged anew, log₂(blocks) of them. Nothing is ever subtracted: a difference of two running sums
keeps the rounding of all that went through them.
"""

import torch

from perceivers.nn.attention.state import State, merged

# Numbers that are merged in one go: with what is in between some tens of MB.
MERGED_NUMBERS = 2**20


class StateTree:
    """States of up to `leaves` blocks, each of `rows` query rows and `width` numbers a row, in float64.

    Takes 16·rows·(width + 1) bytes a leaf, for the next power of two of leaves.
    """

    def __init__(self, leaves: int, rows: int, width: int, device: torch.device) -> None:
        self.leaves = 1
        while self.leaves < leaves:
            self.leaves *= 2
        # Node 1 is the root, nodes 2n and 2n + 1 are below node n, leaf i is node leaves + i.
        self._lse, self._read = _nothing(2 * self.leaves, rows, width, device)
        self._stale: set[int] = set()

    def set(self, leaf: int, state: State | None) -> None:
        """The block `leaf` has this state (of one sample) from now on; None: it has no elements."""
        node = self.leaves + leaf
        if state is None:
            self._lse[node], self._read[node] = float("-inf"), 0.0
        else:
            self._lse[node], self._read[node] = state.lse[0], state.read[0]
        if node > 1:
            self._stale.add(node // 2)

    def grow(self, leaves: int) -> None:
        """Room for so many leaves: the whole tree becomes the left half of one twice as large, as often as needed."""
        while self.leaves < leaves:
            _, rows, width = self._read.shape
            lse, read = _nothing(4 * self.leaves, rows, width, self._read.device)
            first = 1
            while first <= self.leaves:
                old, new = slice(first, 2 * first), slice(2 * first, 3 * first)
                lse[new], read[new] = self._lse[old], self._read[old]
                first *= 2
            # What was stale moves with its level; the new root has the old one below it.
            self._stale = {node + 2 ** (node.bit_length() - 1) for node in self._stale} | {1}
            self.leaves *= 2
            self._lse, self._read = lse, read

    def root(self) -> State:
        """The state of all leaves together, as that of one sample; merges only what changed."""
        levels: dict[int, set[int]] = {}
        for node in self._stale:
            levels.setdefault(node.bit_length(), set()).add(node)
        for level in range(max(levels, default=0), 0, -1):
            nodes = levels.get(level, set())
            self._merge(sorted(nodes))
            if level > 1:
                levels.setdefault(level - 1, set()).update(node // 2 for node in nodes)
        self._stale.clear()
        return State(self._lse[1:2].clone(), self._read[1:2].clone())

    def _merge(self, nodes: list[int]) -> None:
        _, rows, width = self._read.shape
        size = max(MERGED_NUMBERS // max(rows * width, 1), 1)
        for start in range(0, len(nodes), size):
            at = torch.tensor(nodes[start : start + size], device=self._read.device)
            pair = [State(self._lse[below], self._read[below]) for below in (2 * at, 2 * at + 1)]
            self._lse[at], self._read[at] = merged(pair)


def _nothing(nodes: int, rows: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # What is made in inference mode could not be written to outside of it.
    with torch.inference_mode(False):
        lse = torch.full((nodes, rows), float("-inf"), dtype=torch.float64, device=device)
        return lse, torch.zeros(nodes, rows, width, dtype=torch.float64, device=device)
