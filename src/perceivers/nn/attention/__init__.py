"""Attention: `attend`, its plain twin, paths without keys, their planner, and the module with the four projections."""

from perceivers.nn.attention.attend import attend
from perceivers.nn.attention.module import Attention
from perceivers.nn.attention.plain import attend_plain
from perceivers.nn.attention.read import attend_lifted

__all__ = ["Attention", "attend", "attend_lifted", "attend_plain"]
