"""Attention: `attend`, its plain twin, the absorbed path, its planner, and the module with the four projections."""

from perceivers.nn.attention.absorbed import attend_absorbed
from perceivers.nn.attention.attend import attend
from perceivers.nn.attention.module import Attention
from perceivers.nn.attention.plain import attend_plain

__all__ = ["Attention", "attend", "attend_absorbed", "attend_plain"]
