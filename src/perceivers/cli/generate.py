"""`perceivers generate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perceivers.models.autoregressive import AutoregressiveModel


def generate(
    model: Annotated[
        Path, typer.Argument(help="A model directory or a run folder, with encoder.kind: autoregressive.")
    ],
    prompt: Annotated[str | None, typer.Option(help="Text to continue. Default: from the very start.")] = None,
    ids: Annotated[str | None, typer.Option(help="Token ids to continue, such as 5,17,4, instead of text.")] = None,
    length: Annotated[
        int, typer.Option(min=1, help="The most tokens to add; the end of a sequence stops earlier.")
    ] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="Divides the logits; 0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw only from so many likeliest tokens.")] = None,
    top_p: Annotated[float, typer.Option(help="Draw only from the likeliest that have this share together.")] = 1.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed draws the same. Default: another each time.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Run the whole model for each token: exact, and slower.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with the ids instead of text.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Continue a prompt token by token, and print what was added."""
    from perceivers.nn.generation import Sampling
    from perceivers.training.reporter import Reporter

    sampling = Sampling(temperature, top_k, top_p)
    loaded = _loaded(model, device)
    start = _start(loaded, prompt, ids)
    reporter = Reporter(quiet)
    (found,) = loaded.generate(
        [start],
        length,
        sampling,
        cache=not no_cache,
        seed=seed,
        advance=lambda done: reporter.advance("generating", done, length),
    )
    reporter.close()
    value = loaded.written(found)
    if as_json:
        print(json.dumps({"ids": found, "value": value}, ensure_ascii=False))
    else:
        print(value if isinstance(value, str) else " ".join(str(token) for token in value))


def _loaded(folder: Path, device: str) -> "AutoregressiveModel":
    from perceivers.errors import SpecError
    from perceivers.models.autoregressive import AutoregressiveModel
    from perceivers.models.weights import load

    loaded = load(folder, device)
    if not isinstance(loaded, AutoregressiveModel):
        kind = loaded.spec.encoder.kind
        raise SpecError(f"'{folder}' does not generate: its encoder.kind is {kind}; wanted autoregressive.")
    return loaded


def _start(model: "AutoregressiveModel", prompt: str | None, ids: str | None) -> Any:
    """The prompt as a raw value of the model's input."""
    from perceivers.errors import SpecError
    from perceivers.tokens import BYTE_VOCABULARY, RESERVED, token_ids

    if prompt is not None and ids is not None:
        raise SpecError("give --prompt or --ids, not both.")
    if model.encoding == "ids":
        if prompt is not None:
            raise SpecError("this model reads token ids of its own tokenizer; give --ids, such as --ids 5,17,4.")
        return ids or ""
    if ids is None:
        return prompt or ""
    return bytes((token_ids(ids, "ids", BYTE_VOCABULARY) - RESERVED).tolist())
