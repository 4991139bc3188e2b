"""`LiveEncoder`: ids, slots, blocks, and what is refused. Exactness after any edits: properties/test_live_edits.py."""

import re

import numpy as np
import pytest
import torch
import toys

from perceivers import LiveEncoder, build
from perceivers.errors import DataError, PerceiversError, SpecError
from perceivers.inputs.held_grid import tile_of

FOURIER = {"kind": "fourier", "bands": 3}
STATISTICS = {"mean": [0, 0], "std": [1, 1]}
EVENTS = {"kind": "series", "channels": 2, "seconds": 10.0, "position": FOURIER, **STATISTICS}
IMAGE = {"kind": "image", "size": [64, 80], "channels": 2, "position": FOURIER, **STATISTICS}
FACTS = {"kind": "number", "columns": ["a", "b"], "channels": 8, "mean": [0, 0], "std": [1, 1]}


def a_model(live=EVENTS, encoder=None):
    spec = {
        "inputs": {"live": live, "facts": FACTS},
        "latents": {"count": 3, "channels": 8},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}, **(encoder or {})},
        "outputs": {"label": {"kind": "category", "classes": ["x", "y"]}},
    }
    return build(spec, seed=0).double()


def events(count, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(count, 2)).astype(np.float32), draw.uniform(0, 10, count).astype(np.float32)


def encoded(model, sample):
    with torch.no_grad():
        return model.encode(sample)


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class TestAnswers:
    def test_answers_are_those_of_the_model(self):
        model, (values, times) = a_model(), events(20)
        live = LiveEncoder(model, "live", {"facts": [1.0, 2.0]}, block=8)
        live.append(values, times)
        wanted = model([{"live": {"values": values, "times": times}, "facts": [1.0, 2.0]}])["label"]
        same(model.decode(live.latents())["label"], wanted.detach())
        assert not live.latents().requires_grad

    def test_a_first_value_of_a_set_and_of_a_grid(self):
        values, times = events(9)
        whole = {"values": values, "times": times}
        live, model = LiveEncoder(a_model(), "live", value=whole, block=4), a_model()
        same(live.latents(), encoded(model, {"live": whole}))
        live.delete(range(9))
        same(live.latents(), encoded(model, {}))
        series = {**EVENTS, "rate": 5.0}
        short = np.ones((30, 2), np.float32)
        live, model = LiveEncoder(a_model(series), "live", value=short, block=16), a_model(series)
        assert len(live) == 30
        same(live.latents(), encoded(model, {"live": short}))
        live.replace(30, [[1.0, 1.0]] * 20)
        same(live.latents(), encoded(model, {"live": np.ones((50, 2), np.float32)}))

    def test_with_nothing_at_all_the_latents_are_those_of_absence(self):
        for kind in (EVENTS, IMAGE):
            live = LiveEncoder(a_model(kind), "live")
            assert len(live) == 0
            same(live.latents(), encoded(a_model(kind), {}))

    def test_other_inputs_come_and_go(self):
        model, (values, times) = a_model(), events(20)
        whole = {"live": {"values": values, "times": times}}
        live = LiveEncoder(model, "live", {"facts": [1.0, 2.0]}, whole["live"])
        for facts in ({"facts": [3.0, None]}, {}, {"facts": [0.0, 0.0]}):
            live.update_others(facts)
            same(live.latents(), encoded(model, {**whole, **facts}))

    def test_a_large_grid_keeps_its_tables(self, monkeypatch):
        toys.make_cheap(monkeypatch, "factorised")
        model = a_model({**IMAGE, "position": {**FOURIER, "bands": 16}})
        image = np.random.default_rng(0).normal(size=(64, 80, 2)).astype(np.float32)
        live = LiveEncoder(model, "live", value=image, block=4500)
        assert live._path == "factorised"
        image[10:50, 60:] = np.nan
        live.delete((10, 60), (40, 20))
        same(live.latents(), encoded(model, {"live": image}))

    def test_many_heads_are_read_with_keys_and_values(self, monkeypatch):
        toys.make_cheap(monkeypatch, "projected")
        model, (values, times) = a_model(encoder={"cross": {"heads": 8, "qk_channels": 8}}), events(50)
        live = LiveEncoder(model, "live", value={"values": values, "times": times}, block=8)
        assert live._path == "projected"
        same(live.latents(), encoded(model, {"live": {"values": values, "times": times}}))

    def test_float32(self):
        model, (values, times) = a_model().float(), events(5000)
        live = LiveEncoder(model, "live", value={"values": values, "times": times}, block=512)
        live.delete(range(100, 200))
        found = live.latents()
        kept = np.r_[0:100, 200:5000]
        wanted = encoded(model.double(), {"live": {"values": values[kept], "times": times[kept]}})
        assert float((found - wanted).abs().max() / wanted.abs().max()) <= 2e-6

    def test_in_inference_mode_and_then_outside(self):
        model, (values, times) = a_model(), events(20)
        with torch.inference_mode():
            live = LiveEncoder(model, "live", block=8)
            live.append(values[:10], times[:10])
            live.latents()
        live.append(values[10:], times[10:])
        same(live.latents(), encoded(model, {"live": {"values": values, "times": times}}))


class TestBlocks:
    def read_blocks(self, live, monkeypatch):
        read, real = [], live._held.lifted
        monkeypatch.setattr(live._held, "lifted", lambda block: read.append(block) or real(block))
        return read

    def test_an_edit_reads_its_blocks_once_and_no_others(self, monkeypatch):
        values, times = events(100)
        live = LiveEncoder(a_model(), "live", value={"values": values, "times": times}, block=10)
        live.latents()
        read = self.read_blocks(live, monkeypatch)
        live.replace([5, 7, 42], values[:3])
        live.delete([6])
        live.latents()
        assert read == [0, 4]
        live.latents()
        assert read == [0, 4]

    def test_a_window_reads_its_tiles(self, monkeypatch):
        live = LiveEncoder(a_model(IMAGE), "live", block=256)
        assert live._held.tile == (16, 16)
        live.latents()
        read = self.read_blocks(live, monkeypatch)
        live.replace((15, 16), np.zeros((2, 16, 2), np.uint8))
        live.latents()
        assert read == [1, 6]

    def test_freed_slots_are_used_again_and_edits_stay_local(self):
        """A window of 100 events that slides on: no more blocks than it needs, and few are touched at a time."""
        live, held = LiveEncoder(a_model(), "live", block=20), None
        for step in range(60):
            live.append(*events(10, step))
            if step >= 10:
                live.slide(10)
            held = live._held
            assert len(held.changed) <= 4
            live.latents()
        assert held.blocks <= 8
        assert len(live) == 100

    def test_scattered_deletions_leave_room_that_is_used(self):
        live = LiveEncoder(a_model(), "live", block=20)
        ids = np.array(live.append(*events(400)))
        live.delete(ids[::2])
        live.append(*events(190))
        assert live._held.blocks == 20

    @pytest.mark.parametrize(
        ("cells", "block", "tile"),
        [
            ((100, 100), 64, (8, 8)),
            ((4, 1000), 64, (4, 16)),
            ((1000, 4), 64, (16, 4)),
            ((7,), 64, (7,)),
            ((10, 10, 10), 27, (3, 3, 3)),
            ((9, 9), 1, (1, 1)),
        ],
    )
    def test_tiles_are_square_where_the_grid_is_wide_enough(self, cells, block, tile):
        assert tile_of(cells, block) == tile


class TestIds:
    def test_ids_count_arrivals_and_are_never_given_again(self):
        live = LiveEncoder(a_model(), "live")
        assert live.append(*events(3)) == range(3)
        live.delete([2])
        live.delete(0)
        assert live.append(*events(2)) == range(3, 5)
        assert live.append(*events(0)) == range(5, 5)
        live.slide(1)
        with pytest.raises(DataError, match="no element 1"):
            live.delete([1])
        assert len(live) == 2

    @pytest.mark.parametrize("ids", [[0], np.array([1, 5]), torch.tensor([5]), range(5, 6), [-1]])
    def test_what_is_not_there(self, ids):
        live = LiveEncoder(a_model(), "live")
        live.append(*events(3))
        live.delete([0])
        with pytest.raises(DataError, match=r"input 'live': there is no element .*ids so far are 0 to 2"):
            live.delete(ids)
        with pytest.raises(DataError, match="there is no element"):
            live.replace(ids, np.zeros((len(ids), 2)))
        assert len(live) == 2

    def test_other_mistakes(self):
        live = LiveEncoder(a_model(), "live")
        with pytest.raises(DataError, match="none was given yet"):
            live.delete([0])
        live.append(*events(3))
        with pytest.raises(DataError, match="stands twice"):
            live.delete([1, 1])
        with pytest.raises(DataError, match="2 ids, but 1 values"):
            live.replace([0, 1], np.zeros((1, 2)))
        with pytest.raises(DataError, match="whole numbers"):
            live.delete([0.5])
        with pytest.raises(DataError, match="whole numbers"):
            live.delete(np.array([True, False]))
        for count in (4, -1, 1.5):
            with pytest.raises(DataError, match=re.escape(f"cannot drop the {count} oldest elements: there are 3")):
                live.slide(count)
        assert len(live) == 3


class TestValues:
    def test_holes_are_masked_and_counted(self):
        values, times = events(6)
        values[1], values[3, 1] = np.nan, np.inf
        live = LiveEncoder(a_model(), "live", block=4)
        live.append(values, times)
        assert (live.masked, len(live)) == (2, 6)
        live.replace([1], np.zeros((1, 2)))
        values[1] = 0
        same(live.latents(), encoded(a_model(), {"live": {"values": values, "times": times}}))

    @pytest.mark.parametrize(
        ("kind", "edit"),
        [
            (EVENTS, lambda live: live.append([[np.nan, 0]], [1.0])),
            ({**EVENTS, "rate": 5.0}, lambda live: live.replace(0, [[np.nan, 0]])),
            (IMAGE, lambda live: live.replace((0, 0), np.full((1, 1, 2), np.nan))),
        ],
        ids=["events", "regular", "image"],
    )
    def test_holes_are_an_error_where_the_input_says_so(self, kind, edit):
        live = LiveEncoder(a_model({**kind, "nan": "error"}), "live")
        with pytest.raises(DataError, match=r"input 'live': .*nan: error"):
            edit(live)
        assert len(live) == 0
        same(live.latents(), encoded(a_model(kind), {}))

    def test_values_and_times_that_do_not_fit(self):
        live = LiveEncoder(a_model(), "live")
        with pytest.raises(DataError, match=r"input 'live': the series has shape \(3, 3\)"):
            live.append(np.zeros((3, 3)), np.zeros(3))
        with pytest.raises(DataError, match="3 values but 2 times"):
            live.append(np.zeros((3, 2)), np.zeros(2))
        live.append(np.zeros((1, 2)), [10.0])
        live.slide(1)
        with pytest.raises(DataError, match=r"between 0 and 10.0 s; got 11.0 to 11.0. .*later start, or raise"):
            live.append(np.zeros((1, 2)), [11.0])
        with pytest.raises(DataError, match=r"input 'live': events come with their times .*append\(values, times\)"):
            live.append(np.zeros((1, 2)))
        assert len(live) == 0

    def test_windows_that_do_not_fit(self):
        live = LiveEncoder(a_model(IMAGE), "live")
        window = np.zeros((4, 4, 2), np.uint8)
        with pytest.raises(DataError, match=r"a window of \(4, 4\) at \(62, 0\) is not within the grid \(64, 80\)"):
            live.replace((62, 0), window)
        with pytest.raises(DataError, match="not within"):
            live.delete((0, -1), (2, 2))
        with pytest.raises(DataError, match="begins at 2 numbers"):
            live.replace(3, window)
        with pytest.raises(DataError, match="begins at 2 numbers"):
            live.delete((0, 0), (2, 2, 2))
        with pytest.raises(DataError, match="whole numbers"):
            live.replace((0.5, 1), window)
        with pytest.raises(DataError, match="say the size"):
            live.delete((0, 0))
        with pytest.raises(DataError, match="leave times out"):
            live.replace((0, 0), window, [1.0])
        with pytest.raises(DataError, match="input 'live'"):
            live.replace((0, 0), np.zeros((4, 4, 5), np.uint8))


class TestRefusals:
    def test_edits_of_the_other_sort(self):
        grid = LiveEncoder(a_model(IMAGE), "live")
        with pytest.raises(DataError, match="nothing to append"):
            grid.append(np.zeros((1, 2)), [0.0])
        with pytest.raises(DataError, match="nothing to append"):
            grid.append(np.zeros((1, 2)))
        with pytest.raises(DataError, match="nothing to slide"):
            grid.slide(1)
        with pytest.raises(DataError, match="leave size out"):
            LiveEncoder(a_model(), "live").delete([0], 3)

    def test_models_and_inputs_that_cannot_be_live(self):
        with pytest.raises(SpecError, match=r"unknown input 'life'. Did you mean 'live'"):
            LiveEncoder(a_model(), "life")
        with pytest.raises(SpecError, match=r"reads its inputs 2 times .*cross_attends: 1"):
            LiveEncoder(a_model(encoder={"cross_attends": 2}), "live")
        with pytest.raises(SpecError, match="input 'facts': an input of kind number cannot be live"):
            LiveEncoder(a_model(), "facts")
        with pytest.raises(SpecError, match="input 'live': a convolution stem"):
            LiveEncoder(a_model({**IMAGE, "lift": {"kind": "conv"}}), "live")
        with pytest.raises(SpecError, match="permuted pixels"):
            LiveEncoder(a_model({**IMAGE, "permute": 1}), "live")
        with pytest.raises(SpecError, match="at least one element"):
            LiveEncoder(a_model(), "live", block=0)
        with pytest.raises(SpecError, match="float32 or float64"):
            LiveEncoder(a_model().bfloat16(), "live")

    def test_others_that_cannot_be(self):
        with pytest.raises(DataError, match="'live' is the live input"):
            LiveEncoder(a_model(), "live", {"live": None})
        with pytest.raises(DataError, match="unknown input 'fact'"):
            LiveEncoder(a_model(), "live", {"fact": [1.0, 2.0]})

    def test_weights_that_changed(self):
        model = a_model()
        live = LiveEncoder(model, "live")
        with torch.no_grad():
            model.decoder.cross_attend.mlp.output.bias += 1
        live.latents()
        with torch.no_grad():
            model.encoder.cross_attends[0].attention.key.weight += 1
        for use in (live.latents, lambda: live.update_others({})):
            with pytest.raises(PerceiversError, match="make a new LiveEncoder"):
                use()
        live = LiveEncoder(model, "live")
        model.float()
        with pytest.raises(PerceiversError, match="make a new LiveEncoder"):
            live.latents()

    def test_training_and_autocast(self):
        model = a_model().float().train()
        live = LiveEncoder(model, "live")
        assert not model.training
        with torch.autocast("cpu"), pytest.raises(SpecError, match="under autocast"):
            live.latents()
        model.train()
        with pytest.raises(PerceiversError, match="in training mode"):
            live.latents()

    def test_an_adapter_in_the_encoder(self):
        model = a_model()
        model.encoder.cross_attends[0].attention.value.register_forward_hook(lambda module, given, found: 2 * found)
        with pytest.raises(SpecError, match="a live input, is read with the weights"):
            LiveEncoder(model, "live")
