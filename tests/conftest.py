"""For all tests: shapes in signatures are checked, one thread, no deadline, and no accelerator means a counted skip."""

from pathlib import Path

import jaxtyping
import pytest

# Before anything imports perceivers: from here on every call in these two floors checks its shape annotations.
jaxtyping.install_import_hook(["perceivers.nn", "perceivers.positions"], "shape_checks.checked")

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# One thread: sums are added in one order, and tests that run side by side do not fight for cores.
torch.set_num_threads(1)

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("perceivers", deadline=None, print_blob=True)
settings.load_profile("perceivers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that need an accelerator skip, with a reason that is counted, where there is none."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if wanting and not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="there is no accelerator here"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people.csv, toy.yaml and its finished run: trained once for all tests, which leave it as it is."""
    from toys import train_people

    return train_people(tmp_path_factory.mktemp("trained"))
