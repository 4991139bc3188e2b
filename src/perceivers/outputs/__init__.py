"""What comes out: one kind of answer a file. `KINDS` lists them; adding an answer is adding a file and a line here."""

from typing import Annotated

from pydantic import Field

from perceivers.outputs.base import Output, OutputSettings, masked_mean
from perceivers.outputs.category import CategoryOutput
from perceivers.outputs.number import NumberOutput

KINDS: dict[str, type[OutputSettings]] = {
    "category": CategoryOutput,
    "number": NumberOutput,
}

AnyOutput = Annotated[CategoryOutput | NumberOutput, Field(discriminator="kind")]

__all__ = ["KINDS", "AnyOutput", "Output", "OutputSettings", "masked_mean"]
