"""Tokens as inputs and targets: ids of raw values, batches, crops, columns of tables, losses."""

import json

import numpy as np
import pytest
import torch
from tokens_model import model, spec
from torch import Tensor

import perceivers
from perceivers.data.loader import collate
from perceivers.data.reader import Row
from perceivers.errors import DataError
from perceivers.inputs.tokens import TokensAugmentation, TokensInput
from perceivers.nn.token_loss import labels_at, token_losses
from perceivers.outputs.next_token import NextTokenOutput
from perceivers.tokens import token_ids, written


class TestIds:
    def test_bytes(self):
        assert token_ids("ab", "bytes", 259).tolist() == [100, 101]
        assert token_ids("é", "bytes", 259).tolist() == [0xC3 + 3, 0xA9 + 3]
        assert token_ids(b"\xff", "bytes", 259).tolist() == [258]
        assert token_ids(np.array([[0, 1], [2, 3]], np.uint8), "bytes", 259).tolist() == [3, 4, 5, 6]

    def test_ids(self):
        for value in ([5, 7], np.array([5, 7]), "5 7", "5,7", "[5, 7]"):
            assert token_ids(value, "ids", 10).tolist() == [5, 7]
        assert token_ids("", "ids", 10).tolist() == []

    def test_back(self):
        assert written(token_ids("naïve ☃", "bytes", 259), "bytes") == "naïve ☃"
        assert written([2, 0xC3 + 3, 100, 1, 0], "bytes") == "�a"
        assert written([2, 5, 7, 1], "ids") == [5, 7]

    @pytest.mark.parametrize(
        ("value", "encoding", "said"),
        [
            (7, "bytes", "got a int, not bytes"),
            ("\ud800", "bytes", "character 0 is half of a pair"),
            ([5, 10], "ids", "token 2 is 10, but ids of data go from 3 to 9"),
            ([2], "ids", "token 1 is 2, but ids of data go from 3 to 9"),
            ([-1], "ids", "token 1 is -1, but ids of data go from 3 to 9"),
            ([3, 10**30], "ids", f"token 2 is {10**30}, but ids of data go from 3 to 9"),
            (np.array([2**63 + 5], np.uint64), "ids", f"token 1 is {2**63 + 5}, but ids of data go from 3 to 9"),
            ([[3], [4, 5]], "ids", "got lists in a list"),
            ([0.5], "ids", "holds no whole numbers"),
            ([[5], [6, 7]], "ids", "got lists in a list"),
            ("a b", "ids", "is no list of token ids"),
            ({"a": 1}, "ids", "holds no whole numbers"),
        ],
    )
    def test_what_is_none(self, value, encoding, said):
        with pytest.raises(DataError, match=said):
            token_ids(value, encoding, 10)


class TestInput:
    KIND = TokensInput(length=5, channels=4)

    def test_a_batch_is_as_long_as_its_longest(self):
        elements = self.KIND.collate([self.KIND.parse("abc"), None, self.KIND.parse("")])
        assert elements.values[..., 0].tolist() == [[2, 100, 101, 102], [0] * 4, [2, 0, 0, 0]]
        assert elements.mask is not None
        assert elements.mask.sum(1).tolist() == [4, 0, 1]

    def test_too_long(self):
        with pytest.raises(DataError, match="the sequence has 5 tokens and begins with SOS, but the input reads 5"):
            self.KIND.parse("abcde")
        cut = self.KIND.with_changes(overflow="truncate").parse("abcde")
        assert cut.values[:, 0].tolist() == [2, 100, 101, 102, 103]

    def test_crops_end_anywhere_behind_the_shortest(self):
        change = TokensInput(length=40).augmenter(TokensAugmentation(crop=3))
        sample = TokensInput(length=40).parse("abcdefgh")
        found = {len(change(sample, (0, epoch)).values) for epoch in range(200)}
        assert found == set(range(3, 10))
        assert np.array_equal(change(sample, (1, 2)).values, change(sample, (1, 2)).values)
        assert change(self.KIND.parse("a"), (0,)).values.shape == (2, 1)
        whole = TokensInput().augmenter(TokensAugmentation())
        assert whole(sample, (0,)) is sample


class TestTargets:
    KIND = NextTokenOutput()

    def batch(self, kind: NextTokenOutput, texts: list[str], crop: int | None = None) -> Tensor:
        read = TokensInput(length=9)
        rows = []
        for text in texts:
            sample = read.parse(text)
            if crop:
                sample = read.augmenter(TokensAugmentation(crop=crop))(sample, (0, 1))
            rows.append(Row({"text": sample}, {"next": kind.parse(text)}))
        return collate(rows, {"text": read}, {"next": kind}).targets["next"]

    def test_the_next_token_of_each(self):
        assert self.batch(self.KIND, ["ab", ""]).tolist() == [[100, 101, 1], [0, 0, 0]]

    def test_what_has_no_end_has_no_last_target(self):
        assert self.batch(NextTokenOutput(end=False), ["ab"]).tolist() == [[100, 101, -1]]

    def test_as_far_as_the_input_is_read(self):
        found = self.batch(self.KIND, ["abcdefgh"], crop=2)
        assert 2 <= found.shape[1] < 9
        assert found[0].tolist() == list(range(100, 100 + found.shape[1]))

    def test_an_absent_input_has_no_target(self):
        rows = [Row({"text": None}, {"next": self.KIND.parse("ab")})]
        assert collate(rows, {"text": TokensInput()}, {"next": self.KIND}).targets["next"].tolist() == [[0]]


class TestLoss:
    def test_labels(self):
        targets, places = torch.tensor([[5, 6, 1, 0], [7, -1, 0, 0]]), torch.tensor([[1, 2, 3], [-1, 0, 1]])
        labels, valid = labels_at(targets, places)
        assert labels.tolist() == [[6, 1, 0], [0, 7, 0]]
        assert valid.tolist() == [[True, True, False], [False, True, False]]

    def test_smoothing_and_z(self):
        logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
        targets = torch.tensor([0, 3, 6])
        plain, none = token_losses(logits, targets)
        torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
        assert not none.any()
        losses, z = token_losses(logits, targets, z_loss=0.5)
        torch.testing.assert_close(z, 0.5 * logits.logsumexp(-1) ** 2)
        torch.testing.assert_close(losses, plain + z)
        shares = torch.full((3, 7), 0.1 / 6).scatter(1, targets[:, None], 0.9)
        divergence = (shares * (shares.log() - logits.log_softmax(-1))).sum(-1)
        torch.testing.assert_close(token_losses(logits, targets, label_smoothing=0.1)[0], divergence)

    def test_scores_are_a_token(self):
        head = model().outputs["next"]
        metrics = head.metrics()
        prediction = torch.zeros(2, 4, 259)
        prediction[..., 100] = 1e3
        head.measure(metrics, prediction, torch.tensor([[100, 100, 100, 101], [100, 1, 0, 0]]))
        scores = head.scores(metrics)
        assert scores["accuracy"] == pytest.approx(4 / 6)
        assert scores["bits_per_token"] == pytest.approx(2 / 6 * 1e3 / np.log(2))

    def test_answers(self):
        prediction = torch.zeros(2, 4, 259)
        prediction[0, -1, 100] = prediction[1, -1, 1] = 1e3
        assert model().outputs["next"].answer("next", prediction, {}) == [
            {"next": "a", "next_id": 100, "next_probability": 1.0},
            {"next": None, "next_id": 1, "next_probability": 1.0},
        ]
        numbers = {"encoding": "ids", "vocabulary": 259}
        head = model(tokens=numbers, output=numbers).outputs["next"]
        assert head.answer("next", prediction, {})[0]["next"] == 100


def test_it_trains_scores_and_answers(tmp_path):
    """Texts that go back to their beginning in the middle: after it every letter is known."""
    generator = np.random.default_rng(0)
    halves = ["".join(generator.choice(list("abcd"), 5)) for _ in range(600)]
    lines = [json.dumps({"text": half + half[::-1]}) for half in halves]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n")
    learned = {"kind": "absolute", "code": "random", "learnable": True}
    data = spec(latents=6, tokens={"length": 12, "channels": 32, "position": learned})
    data["latents"]["channels"] = 32
    recipe = {
        "model": data,
        "data": {"source": "texts.jsonl"},
        "training": {
            "steps": 120,
            "batch_size": 64,
            "lr": 1e-2,
            "weight_decay": 0.0,
            "augment": {"text": {"kind": "tokens", "crop": 6}},
        },
    }
    perceivers.train(recipe, out=tmp_path / "run", quiet=True, base=tmp_path)
    scores = perceivers.evaluate(tmp_path / "run", quiet=True)["scores"]["next"]
    assert scores["accuracy"] > 0.9, "the last six tokens of a text are its mirrored half and the end"
    assert scores["bits_per_token"] < 0.5
    answers = perceivers.predict(tmp_path / "run", [{"text": "abcdbbdcb"}, {"text": "abcdbbdcba"}])
    assert [answer["next"] for answer in answers] == ["a", None]
    loaded = perceivers.load(tmp_path / "run")
    from perceivers.nn.generation import Sampling

    (found,) = loaded.generate(["dcbaa"], 7, Sampling(temperature=0), cache=False)
    assert loaded.written(found) == "aabcd"
