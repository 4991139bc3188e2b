"""What an autoregressive model costs: the plan of `plan.py` for latents that stand on the tokens themselves."""

from perceivers.inputs.base import linear_flops
from perceivers.models.autoregressive import AutoregressiveModel
from perceivers.models.flops import cross_flops, self_flops
from perceivers.models.memory import step_of
from perceivers.models.plan import FLOAT, Memory, Part, Plan
from perceivers.nn import CrossAttend, SelfAttend


def autoregressive_plan(model: AutoregressiveModel, batch: int, averages: bool, budget: float | None) -> Plan:
    """The cost of predicting behind the last tokens of a whole context; see `perceivers.models.plan.plan`.

    A budget changes nothing of the model; the plan says whether it is kept.
    """
    (name,), (answer,) = model.inputs, model.outputs
    tokens, latents = int(model.kind.elements()), model.spec.latents.count
    core, encoder = model.core, model.encoder
    predicted = latents // encoder.query.per_position
    crosses = [layer for layer in encoder.cross_attends if isinstance(layer, CrossAttend)]
    selves = [layer for layer in encoder.self_attends if isinstance(layer, SelfAttend)]
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    parts = (
        Part(f"input {name}", count(core.embedding), 0),
        Part("queries", count(encoder.query), _query_flops(model, predicted)),
        Part("cross-attends", count(encoder.cross_attends), sum(cross_flops(x, latents, tokens) for x in crosses)),
        Part("self-attends", count(encoder.self_attends), sum(self_flops(x, latents) for x in selves)),
        Part(f"output {answer}", count(core.head), linear_flops(core.head, predicted)),
    )
    steps = [step_of(x.attention, x.mlp, latents, tokens) for x in crosses]
    steps += [step_of(x.attention, x.mlp, latents) for x in selves]
    width = core.embedding.tokens.embedding_dim
    # Ids, embeddings with and without positions, the masks (a byte each), and logits with their softmax.
    fixed = 3 * tokens * width + latents * (tokens + latents) // FLOAT + 2 * predicted * core.embedding.vocabulary
    kept = fixed + sum(step.saved for step in steps)
    training = kept + max(step.gradients for step in steps)
    size = sum(p.numel() for p in model.parameters()) * FLOAT
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad) * FLOAT
    memory = Memory(
        parameters=size,
        gradients=learned,
        moments=2 * learned,
        averages=size if averages else 0,
        training_activations=training * batch * FLOAT,
        inference_activations=(fixed + max(step.saved for step in steps)) * batch * FLOAT,
    )
    return Plan(
        parts=parts,
        elements={name: tokens},
        channels=width,
        paths={name: "plain"},
        training_paths={name: "plain"},
        latents=(latents, model.spec.latents.channels),
        batch=batch,
        memory=memory,
        assumed=("the context is full: every sample has as many tokens as the model reads",),
        layers=(),
        budget=None if budget is None else int(budget),
    )


def _query_flops(model: AutoregressiveModel, predicted: int) -> int:
    """Of the linears that make the first latents; an MLP's run once a latent, the first one once a token."""
    query = model.encoder.query
    first = 0 if query.linear is None else linear_flops(query.linear, predicted)
    return first + linear_flops(query.layers, predicted * query.per_position)
