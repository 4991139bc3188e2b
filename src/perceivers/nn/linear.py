"""The linear of attention and MLP blocks: `F.linear`, and at inference on a CPU the same by oneDNN, a tenth faster."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# Multiply-adds of a product below which turning the rows into oneDNN's layout and back is not worth it [measured].
FEWEST_PRODUCTS = 2**26


class BlockLinear(nn.Linear):
    """`nn.Linear` whose large float32 products go by oneDNN where nothing needs a gradient.

    torch's own float32 product on CPUs is MKL's; on the machines measured oneDNN takes 0.88 to 0.92 of its time
    [benchmarks/models.py]. Its rounding is of the same size: 3e-7 of the result's norm, where MKL has 2e-7.
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
        if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or self.weight.dtype != torch.float32:
            return False
        return x.numel() * self.out_features >= FEWEST_PRODUCTS and torch.backends.mkldnn.is_available()
