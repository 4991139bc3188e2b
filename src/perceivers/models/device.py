"""The devices of this machine, by name."""

import torch

from perceivers.errors import SpecError, near_miss


def checked_device(device: torch.device | str) -> torch.device:
    """The device of that name. Raises `SpecError` with those that exist when it is none, or not on this machine."""
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found == torch.device("cpu:0"):
        found = torch.device("cpu")
    known = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        assert kind is not None, "there is one"
        known += [kind.type, *(f"{kind.type}:{number}" for number in range(torch.accelerator.device_count()))]
    if found is None or str(found) not in known:
        raise SpecError(
            f"there is no device '{device}' here.{near_miss(str(device), known)} Devices: {', '.join(known)}."
        )
    return found
