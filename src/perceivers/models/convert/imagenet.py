"""The names of ImageNet's 1000 classes, for weights whose files know only their numbers."""

import warnings
from collections import Counter
from collections.abc import Sequence

from perceivers.errors import missing_extra
from perceivers.models.presets import IMAGENET_CLASSES
from perceivers.models.spec import Spec


def with_class_names(spec: Spec) -> Spec:
    """`spec`, its outputs of ImageNet's classes by number with names that people know: torchvision holds the list.

    Warns where torchvision is not installed; the classes then keep their numbers.
    """
    nameless = [name for name, kind in spec.outputs.items() if kind.labels() == IMAGENET_CLASSES]
    if not nameless:
        return spec
    try:
        from torchvision.models import ResNet18_Weights
    except ImportError:
        why = missing_extra("torchvision", "data", "naming ImageNet's classes")
        warnings.warn(f"{why}; until weights are imported anew the classes are class_000 and on.", stacklevel=2)
        return spec
    names = unique_names(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    outputs = {
        name: kind.with_changes(classes=names) if name in nameless else kind for name, kind in spec.outputs.items()
    }
    return spec.with_changes(outputs=outputs)


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names in order; one that stands there twice, as crane does in older lists, gets its number behind it."""
    twice = {name for name, times in Counter(names).items() if times > 1}
    return tuple(f"{name} ({n})" if name in twice else name for n, name in enumerate(names))
