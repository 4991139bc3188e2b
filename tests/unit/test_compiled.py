"""Encoder and decoder through torch.compile in one graph and torch.export: the same answers."""

import subprocess
import sys

# In a process of its own: the checker of shapes that the tests put on every function cannot be compiled.
SCRIPT = """
import torch
from perceivers.nn import CrossAttend, Decoder, Encoder, SelfAttend

torch.manual_seed(0)
encoder = Encoder(4, 8, [CrossAttend(8, 7)], [[SelfAttend(8, 2)]], [("cross", 0), ("cross", 0), ("block", 0)])
decoder = Decoder(CrossAttend(9, 8), torch.nn.Linear(9, 3))
elements, queries = torch.randn(2, 600, 7), torch.randn(2, 40, 9)
latents = encoder(elements).detach()
for module, given in ((encoder, (elements,)), (decoder, (queries, latents))):
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            # Without generated code, which takes minutes on processors.
            found = torch.compile(module, backend="aot_eager", fullgraph=True)(*given)
            torch.testing.assert_close(found, module(*given), rtol=1e-5, atol=1e-5)
        torch._dynamo.reset()
    found = torch.export.export(module, given).module()(*given)
    torch.testing.assert_close(found, module(*given), rtol=1e-5, atol=1e-5)
print("agree")
"""


def test_compiled_and_exported():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.stdout.endswith("agree\n"), done.stderr[-3000:]
