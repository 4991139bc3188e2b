"""Masked text with masked queries, and flow with the elements themselves as queries, equal the official code."""

import pytest
import torch
from haiku_names import CROSS_NORMS, Golden, Names, agree, load_golden
from torch import Tensor, nn

from perceivers.elements import Elements
from perceivers.inputs.position import Learned
from perceivers.inputs.text import TextInput
from perceivers.nn import CrossAttend, Decoder, Encoder, SelfAttend
from perceivers.nn.perceiver import encoder_order
from perceivers.nn.position import FourierPosition, LearnedPosition
from perceivers.nn.stem import space_to_depth


class Language(nn.Module):
    """The released byte model at the size of the recording: tied embedding, learned queries, no query residual."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextInput(length=32, channels=24, position=Learned(channels=24, join="add")).build()
        layers = [SelfAttend(40, 4, qk_channels=16, v_channels=40) for _ in range(3)]
        read = CrossAttend(40, 24, 4, qk_channels=16, v_channels=40)
        self.encoder = Encoder(12, 40, [read], [layers], encoder_order(1, 1))
        self.query = LearnedPosition((32,), 24)
        self.decoder = Decoder(CrossAttend(24, 40, 4, qk_channels=16, v_channels=24, query_residual=False))
        self.bias = nn.Parameter(torch.zeros(262))

    def forward(self, ids: Tensor, mask: Tensor, query_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Answers (B, 32, 24) and logits (B, 32, 262)."""
        lifted = self.text(Elements(ids[..., None].long(), grid=(32,), mask=mask))
        queries = self.query(grid=(32,)).expand(len(ids), -1, -1)
        answers = self.decoder(queries, self.encoder(lifted.joined(), mask), query_mask)
        return answers, answers @ self.text.embedding.weight.T + self.bias


@pytest.fixture
def language() -> tuple[Language, Golden]:
    golden, model = load_golden("dm_language_mlm"), Language().eval()
    names = Names(golden.params)
    names.encoder("encoder.")
    names.attend("decoder.cross_attend.", "basic_decoder/cross_attention", CROSS_NORMS)
    names.array("query.table", "basic_decoder/~/trainable_position_encoding/pos_embs")
    names.array("text.embedding.weight", "embed/embeddings")
    names.array("text.position.table", "trainable_position_encoding/pos_embs")
    names.array("bias", "embedding_decoder/bias")
    names.into(model)
    return model, golden


@torch.no_grad()
def test_masked_text_and_masked_queries(language):
    model, golden = language
    ids, mask = golden.inputs["inputs"], golden.inputs["input_mask"].bool()
    assert not mask.all(), "the recording has padding"
    answers, logits = model(ids, mask, mask)
    agree(answers, golden.outputs["decoder_output"])
    agree(logits, golden.outputs["logits"])
    agree(model(ids, mask, None)[1], golden.outputs["logits_no_query_mask"])
    agree(model(ids, torch.ones_like(mask), None)[1], golden.outputs["logits_no_mask"])


class Flow(nn.Module):
    """The released flow model at the size of the recording, from 3×3 patches on: elements ask as queries."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(54, 64)
        self.position = FourierPosition((8, 12), 4)
        layers = [SelfAttend(32, 4) for _ in range(3)]
        self.encoder = Encoder(16, 32, [CrossAttend(32, 82)], [layers], encoder_order(1, 1))
        self.decoder = Decoder(CrossAttend(82, 32, query_residual=False))
        self.head = nn.Linear(82, 2)

    def forward(self, patches: Tensor, chunk: int | None = None) -> Tensor:
        """(B, 2, 8, 12, 27) → flow (B, 8, 12, 2) in pixels."""
        frames = space_to_depth(patches, (2, 1, 1))[:, 0].flatten(1, 2)
        content = self.patches(frames)
        position = self.position(grid=(8, 12), like=content).expand(len(content), -1, -1)
        elements = torch.cat([content, position], dim=-1)
        answers = self.decoder(elements, self.encoder(elements), chunk=chunk)
        return (self.head(answers) / 100 * 20).unflatten(1, (8, 12))


@torch.no_grad()
@pytest.mark.parametrize("chunk", [None, 7])
def test_elements_as_queries(chunk):
    golden, model = load_golden("dm_optical_flow"), Flow().eval()
    names = Names(golden.params)
    names.encoder("encoder.")
    names.linear("patches", "image_preprocessor/patches_linear")
    names.attend("decoder.cross_attend.", "flow_decoder/~/basic_decoder/cross_attention", CROSS_NORMS)
    names.linear("head", "flow_decoder/~/basic_decoder/output")
    names.into(model)
    flow = model(golden.outputs["patches"], chunk)
    agree(flow, golden.outputs["flow"])
    assert golden.outputs["flow"].abs().mean() > 0.01, "the tolerance would hide flow that is all but zero"
