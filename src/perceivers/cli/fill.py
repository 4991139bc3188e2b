"""`perceivers fill`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perceivers.models.model import Model


def fill(
    model: Annotated[Path, typer.Argument(help="A model directory or a run folder, with an output of kind text.")],
    text: Annotated[str, typer.Argument(help="A text.")],
    mask: Annotated[list[str], typer.Option(help="A part of the text, to be guessed; may be given several times.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
) -> None:
    """Hide parts of a text and print it as the model fills it in.

    Below it stand the likeliest readings of each part.
    """
    from perceivers.predictor import Predictor

    predictor = Predictor(model, device)
    given, output = _text_output(predictor.model)
    answer = predictor({given: {"text": text, "mask": mask}})
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
        return
    print(answer[output])
    for guesses in answer[f"{output}_guesses"]:
        print()
        for guess in guesses:
            print(f"{guess['probability']:7.2%}  {guess['text']!r}")


def _text_output(model: "Model") -> tuple[str, str]:
    """The names of the text input and of the output that fills it in. Raises `SpecError` where there is none."""
    from perceivers.errors import SpecError

    for name, kind in model.spec.outputs.items():
        if kind.kind == "text" and kind.encoding == "ids":  # pyright: ignore[reportAttributeAccessIssue]
            raise SpecError(
                "the model reads ids of a tokenizer, and no text: from Python, "
                f"Predictor(model)({{'{kind.asks_with[0]}': {{'text': [ids], 'mask': [[start, stop]]}}}})."
            )
        if kind.kind == "text":
            return kind.asks_with[0], name
    kinds = ", ".join(f"{name} ({kind.kind})" for name, kind in model.spec.outputs.items())
    raise SpecError(f"the model fills in no text: it has no output of kind text. Outputs: {kinds}.")
