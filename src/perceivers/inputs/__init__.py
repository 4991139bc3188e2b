"""What goes in: one modality a file. `KINDS` lists them; adding a modality is adding a file and a line here."""

from typing import Annotated

from pydantic import Field

from perceivers.inputs.audio import AudioInput
from perceivers.inputs.augment_image import ImageAugmentation
from perceivers.inputs.augment_pair import PairAugmentation
from perceivers.inputs.augment_points import PointsAugmentation
from perceivers.inputs.augment_series import SeriesAugmentation
from perceivers.inputs.augment_text import TextAugmentation
from perceivers.inputs.base import Input, InputSettings, Sample, Seed, unknown_input
from perceivers.inputs.category import CategoryInput
from perceivers.inputs.image import ImageInput
from perceivers.inputs.image_pair import ImagePairInput
from perceivers.inputs.number import NumberInput
from perceivers.inputs.points import PointsInput
from perceivers.inputs.series import SeriesInput
from perceivers.inputs.text import TextInput
from perceivers.inputs.tokens import TokensAugmentation, TokensInput
from perceivers.inputs.video import VideoInput

KINDS: dict[str, type[InputSettings]] = {
    "image": ImageInput,
    "image_pair": ImagePairInput,
    "video": VideoInput,
    "audio": AudioInput,
    "series": SeriesInput,
    "points": PointsInput,
    "number": NumberInput,
    "category": CategoryInput,
    "text": TextInput,
    "tokens": TokensInput,
}

AnyAugmentation = Annotated[
    ImageAugmentation
    | PairAugmentation
    | PointsAugmentation
    | SeriesAugmentation
    | TextAugmentation
    | TokensAugmentation,
    Field(discriminator="kind"),
]

AnyInput = Annotated[
    ImageInput
    | ImagePairInput
    | VideoInput
    | AudioInput
    | SeriesInput
    | PointsInput
    | NumberInput
    | CategoryInput
    | TextInput
    | TokensInput,
    Field(discriminator="kind"),
]

__all__ = ["KINDS", "AnyAugmentation", "AnyInput", "Input", "InputSettings", "Sample", "Seed", "unknown_input"]
