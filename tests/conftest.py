"""Test set-up: shapes in signatures are checked, one thread, no deadline on a shared machine."""

import jaxtyping

# Before anything imports perceivers: from here on every call in these two floors checks its shape annotations.
jaxtyping.install_import_hook(["perceivers.nn", "perceivers.positions"], "shape_checks.checked")

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# One thread: sums are added in one order, and tests that run side by side do not fight for cores.
torch.set_num_threads(1)

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("perceivers", deadline=None, print_blob=True)
settings.load_profile("perceivers")
