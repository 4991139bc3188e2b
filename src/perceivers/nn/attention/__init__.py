"""Attention: one function `attend`, its plain twin, and the module that holds the four projections."""

from perceivers.nn.attention.attend import attend
from perceivers.nn.attention.module import Attention
from perceivers.nn.attention.plain import attend_plain

__all__ = ["Attention", "attend", "attend_plain"]
