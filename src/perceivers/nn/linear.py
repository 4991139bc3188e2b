"""The linear of attention and MLP blocks: `F.linear`, or the same by oneDNN where that is faster; linears in a row."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

# Multiply-adds of a product below which turning the rows into oneDNN's layout and back is not worth it [measured].
FEWEST_PRODUCTS = 2**26
_MOST_AXES = 5
# Rows of a float32 result that are no multiple of a cache line's numbers take a processor's product up to half longer
# to write [docs/log.md, "Products of odd widths"].
LINE = 16
# Of what is made for a whole batch and then read once so many numbers are alive at once on a processor: a larger array
# would be new memory each time, which the system has to clear and map [docs/log.md, "Products of odd widths"].
NUMBERS_AT_ONCE = 2**22


class BlockLinear(nn.Linear):
    """`nn.Linear` whose large float32 products go by oneDNN where nothing needs a gradient.

    torch's own float32 product on CPUs is MKL's. With AVX-512 oneDNN takes 0.88 to 0.92 of its time, with AVX2 more
    [docs/log.md, "Attention without a kernel"]. Its rounding is of the same size: 3e-7 of the result's norm, where MKL
    has 2e-7.
    """

    def reset_parameters(self) -> None:
        """torch's own draw; none on the meta device, where its bookkeeping takes longer than all else of building."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, input: Float[Tensor, "*B C"]) -> Float[Tensor, "*B F"]:
        """(…, in) → (…, out)."""
        if not self._by_onednn(input):
            return super().forward(input)
        return F.linear(input.to_mkldnn(), self.weight, self.bias).to_dense()

    def _by_onednn(self, x: Tensor) -> bool:
        if torch.is_grad_enabled() or x.dtype != torch.float32 or x.device.type != "cpu" or x.is_meta:
            return False
        if torch.compiler.is_compiling() or _traced():
            return False
        if torch.is_autocast_enabled("cpu") or self.weight.dtype != torch.float32:
            return False
        # Neither vmap nor derivatives carried forward know arrays in oneDNN's layout.
        if forward_ad._current_level >= 0 or any(map(is_functorch_wrapped_tensor, (x, *self.parameters()))):
            return False
        # Of more axes oneDNN takes no array.
        large = x.numel() * self.out_features >= FEWEST_PRODUCTS and x.ndim <= _MOST_AXES
        return large and torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()


# What a linear and a layer norm do where nobody has changed it.
_FORWARDS = (nn.Linear.forward, BlockLinear.forward, nn.LayerNorm.forward)


def is_watched(module: nn.Module) -> bool:
    """Whether it has hooks, or all modules have, which see what goes in or comes out, or a forward put in."""
    if "forward" in vars(module) or module._backward_hooks or module._backward_pre_hooks:
        return True
    if nn.modules.module._has_any_global_hook():
        return True
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_plain(*modules: nn.Module) -> bool:
    """Whether each is what its weight and bias say, and may be computed from these without being called.

    Not so with hooks, nor with another forward: adapters, pruning and offloading put what they do there.
    """
    return all(type(module).forward in _FORWARDS and not is_watched(module) for module in modules)


class Affine(NamedTuple):
    """The weight (F, C) and bias (F,) of a linear, its own or another module's.

    module: the linear itself, which is called where its weights are not drawn into other products.
    """

    weight: Tensor
    bias: Tensor | None = None
    module: nn.Module | None = None

    @classmethod
    def of(cls, linear: nn.Linear) -> "Affine":
        """That linear."""
        return cls(linear.weight, linear.bias, linear)

    @property
    def drawable(self) -> bool:
        """Whether weight and bias are all there is to it."""
        return self.module is None or is_plain(self.module)

    def __call__(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B F"]:
        """(…, C) → (…, F)."""
        return F.linear(x, self.weight, self.bias) if self.module is None else self.module(x)

    def widened(self, width: int) -> "Affine":
        """With rows of zeros behind the others, so that it gives (…, width)."""
        more = width - self.weight.shape[0]
        return Affine(F.pad(self.weight, (0, 0, 0, more)), None if self.bias is None else F.pad(self.bias, (0, more)))

    def reaching(self, width: int) -> "Affine":
        """With columns of zeros behind the others, so that it takes (…, width)."""
        return Affine(F.pad(self.weight, (0, width - self.weight.shape[1])), self.bias)

    def behind(self, first: "Affine") -> "Affine":
        """One that gives `self(first(x))`."""
        bias = self.bias
        if first.bias is not None:
            bias = F.linear(first.bias, self.weight, self.bias)
        return Affine(self.weight @ first.weight, bias)


def in_a_row(x: Tensor, linears: Sequence[Affine]) -> Tensor:
    """`x` through each of them, one behind the other."""
    for linear in linears:
        x = linear(x)
    return x


def samples_at_once(numbers: int, like: Tensor) -> int:
    """How many samples, each of which makes so many numbers, to go through together where nothing needs a gradient.

    All of them, unless `like` is a processor's; see `NUMBERS_AT_ONCE`.
    """
    return max(NUMBERS_AT_ONCE // max(numbers, 1), 1) if like.device.type == "cpu" else 2**62


def whole_rows(width: int) -> int:
    """The least multiple of a cache line's numbers that holds `width`."""
    return -(-width // LINE) * LINE


def _traced() -> bool:
    """Whether the calls are recorded for other inputs: a trace would hold what this one's size decides."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def without_graph(x: Tensor) -> bool:
    """Whether nothing is recorded and `x` holds float32 or float64 data: products may then go in another order."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if _traced() or x.is_meta or x.dtype not in (torch.float32, torch.float64):
        return False
    return not torch.is_autocast_enabled(x.device.type)


def once(module: nn.Module, x: Float[Tensor, "B O E"]) -> Float[Tensor, "B O F"]:
    """`module(x)` of a linear or a layer norm: computed once where all samples are one array, expanded.

    The gradient goes to the one array; where `x` itself is a leaf that is asked for its gradient, and where `module` is
    more than its weights (`is_plain`), each sample is computed.
    """
    if x.shape[0] == 1 or x.stride(0) or (x.requires_grad and x.is_leaf) or torch.compiler.is_compiling():
        return module(x)
    if not is_plain(module):
        return module(x)
    return module(x[:1]).expand(x.shape[0], -1, -1)
