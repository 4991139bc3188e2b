"""The tree of states: its root is the state of all leaves, whatever was set, cleared or grown in between."""

import pytest
import torch

from perceivers.nn.attention import tree
from perceivers.nn.attention.state import State, merged
from perceivers.nn.attention.tree import StateTree

ROWS, WIDTH = 3, 2


def a_state(seed):
    draw = torch.Generator().manual_seed(seed)
    read = torch.randn(1, ROWS, WIDTH, generator=draw, dtype=torch.float64)
    return State(10 * torch.randn(1, ROWS, generator=draw, dtype=torch.float64), read)


def same(one, other):
    torch.testing.assert_close(one.lse, other.lse, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(one.read, other.read, rtol=1e-13, atol=1e-13)


def nothing():
    return State(torch.full((1, ROWS), float("-inf")).double(), torch.zeros(1, ROWS, WIDTH).double())


@pytest.mark.parametrize("at_once", [1, 2**20])
@pytest.mark.parametrize("leaves", [1, 2, 3, 8, 13])
def test_the_root_is_all_leaves_merged(leaves, at_once, monkeypatch):
    monkeypatch.setattr(tree, "MERGED_NUMBERS", at_once)
    found, states = StateTree(leaves, ROWS, WIDTH, torch.device("cpu")), [a_state(i) for i in range(leaves)]
    same(found.root(), nothing())
    for leaf, state in enumerate(states):
        found.set(leaf, state)
    same(found.root(), merged(states))
    found.set(leaves - 1, a_state(99))
    same(found.root(), merged([*states[:-1], a_state(99)]))
    for leaf in range(leaves):
        found.set(leaf, None)
    same(found.root(), nothing())


@pytest.mark.parametrize("asked", [False, True], ids=["with stale nodes", "when all is merged"])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 9), (5, 8), (4, 3)])
def test_a_grown_tree_keeps_what_it_had(before, after, asked):
    found, states = StateTree(before, ROWS, WIDTH, torch.device("cpu")), [a_state(i) for i in range(before)]
    for leaf, state in enumerate(states):
        found.set(leaf, state)
    if asked:
        found.root()
    found.grow(after)
    assert found.leaves >= after
    same(found.root(), merged(states))
    found.set(found.leaves - 1, a_state(7))
    whole = [*states, a_state(7)] if found.leaves > before else [*states[:-1], a_state(7)]
    same(found.root(), merged(whole))


def test_one_leaf_changes_and_only_the_nodes_above_it_are_merged(monkeypatch):
    found = StateTree(64, ROWS, WIDTH, torch.device("cpu"))
    for leaf in range(64):
        found.set(leaf, a_state(leaf))
    found.root()
    counted, real = [], tree.merged
    monkeypatch.setattr(tree, "merged", lambda pair: counted.append(len(pair[0].lse)) or real(pair))
    found.set(17, a_state(1000))
    found.root()
    assert counted == [1] * 6
    counted.clear()
    for leaf in (16, 17, 40):
        found.set(leaf, None)
    found.root()
    assert counted == [2, 2, 2, 2, 2, 1]


def test_what_is_made_in_inference_mode_can_be_changed_outside_of_it():
    with torch.inference_mode():
        found = StateTree(2, ROWS, WIDTH, torch.device("cpu"))
        found.set(0, a_state(0))
        found.root()
    found.set(1, a_state(1))
    same(found.root(), merged([a_state(0), a_state(1)]))
