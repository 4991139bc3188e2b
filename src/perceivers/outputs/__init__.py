"""What comes out: one kind of answer a file. `KINDS` lists them; adding an answer is adding a file and a line here."""

from typing import Annotated

from pydantic import Field

from perceivers.outputs.base import Context, Output, OutputSettings, masked_mean
from perceivers.outputs.category import CategoryOutput
from perceivers.outputs.flow import FlowOutput
from perceivers.outputs.grid import GridOutput
from perceivers.outputs.labels import LabelsOutput
from perceivers.outputs.next_token import NextTokenOutput
from perceivers.outputs.number import NumberOutput
from perceivers.outputs.pointwise import PointwiseOutput
from perceivers.outputs.reconstruction import ReconstructionOutput
from perceivers.outputs.text import TextOutput

KINDS: dict[str, type[OutputSettings]] = {
    "category": CategoryOutput,
    "labels": LabelsOutput,
    "number": NumberOutput,
    "text": TextOutput,
    "flow": FlowOutput,
    "grid": GridOutput,
    "pointwise": PointwiseOutput,
    "next_token": NextTokenOutput,
    "reconstruction": ReconstructionOutput,
}

AnyOutput = Annotated[
    CategoryOutput
    | LabelsOutput
    | NumberOutput
    | TextOutput
    | FlowOutput
    | GridOutput
    | PointwiseOutput
    | NextTokenOutput
    | ReconstructionOutput,
    Field(discriminator="kind"),
]

__all__ = ["KINDS", "AnyOutput", "Context", "Output", "OutputSettings", "masked_mean"]
