"""The model directory: a round trip, every damage an error, and the warning about absence."""

import json
import shutil
import struct
import warnings
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file

import perceivers
from perceivers.errors import ModelError, SpecError
from perceivers.models import tensor_file, weights
from perceivers.models.build import build
from perceivers.models.device import checked_device
from perceivers.models.model import Trained
from perceivers.models.weights import is_model, load, save

SPEC = {
    "inputs": {
        "photo": {"kind": "image", "size": [8, 8], "channels": 1, "mean": [100], "std": [50], "lift": {"kind": "conv"}},
        "row": {"kind": "number", "columns": ["a", "b"], "mean": [1, 2], "std": [3, 4], "channels": 6},
        "tags": {"kind": "category", "columns": ["t"], "classes": {"t": ["m", "n"]}, "channels": 6},
    },
    "latents": {"count": 5, "channels": 8},
    "encoder": {"layers": 1, "self_attend": {"heads": 2}},
    "outputs": {
        "label": {"kind": "category", "classes": ["x", "größer"]},
        "age": {"kind": "number", "mean": [40], "std": [10]},
    },
}
SAMPLE = {"photo": torch.arange(64, dtype=torch.uint8).reshape(8, 8).numpy(), "row": [1, None], "tags": ["n"]}


@pytest.fixture(scope="module")
def model():
    model = build(SPEC, seed=0)
    # A training step, so that the running averages are not those of a new model.
    model.train()([SAMPLE, SAMPLE])
    return model.eval()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    return model.save(tmp_path / "model")


def rewritten(folder: Path, name: str, data: bytes) -> None:
    """A file changed by someone who also knows the manifest."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "xxh3_128": xxhash.xxh3_128(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(folder)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_load_is_public():
    assert perceivers.load is load


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip(model, tmp_path, dtype):
    model = build(SPEC, seed=0).to(dtype).eval()
    with torch.no_grad():
        wanted = model(SAMPLE)
        again = load(model.save(tmp_path / "model"))(SAMPLE)
    for name, prediction in wanted.items():
        assert again[name].dtype == dtype
        assert torch.equal(again[name], prediction)


def test_what_comes_back_is_ready_and_complete(model, folder):
    again = load(folder)
    assert not again.training
    assert again.spec == model.spec
    assert all(p.requires_grad for p in again.parameters())
    assert {name: t.dtype for name, t in again.state_dict().items()} == {
        name: t.dtype for name, t in model.state_dict().items()
    }
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    for name, buffer in model.named_buffers():
        assert torch.equal(again.get_buffer(name), buffer), name


def test_weights_lie_in_memory_as_those_of_a_new_model(folder):
    """Some kernels give other last bits where they do not."""
    assert {p.data_ptr() % 64 for p in load(folder).parameters()} == {0}


def test_loading_draws_nothing_from_the_global_generator(folder):
    state = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_files(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "card.md",
        "labels.json",
        "manifest.json",
        "model.safetensors",
        "spec.json",
    ]
    assert json.loads((folder / "labels.json").read_text(encoding="utf-8")) == {"label": ["x", "größer"]}
    assert "größer" in (folder / "labels.json").read_text(encoding="utf-8")
    card = (folder / "card.md").read_text()
    assert "photo (image), row (number), tags (category)" in card
    assert is_model(folder)
    assert not is_model(folder.parent)


def test_card_and_recipe_are_written_as_given(model, tmp_path):
    folder = save(model, tmp_path / "model", card="# Mine\n", recipe="model: {}\n")
    assert (folder / "card.md").read_text() == "# Mine\n"
    assert (folder / "recipe.yaml").read_text() == "model: {}\n"


def test_saving_again_replaces_and_the_bytes_are_the_same(model, folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    (folder / "spec.json").write_text("{}")
    model.save(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_folder_with_something_else_is_not_replaced(model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(ModelError, match="exists and is not a model directory; give another name"):
        model.save(tmp_path / "thesis")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="exists and is not a model directory"):
        model.save(tmp_path / "file")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "x"
    (tmp_path / "empty").mkdir()
    assert is_model(model.save(tmp_path / "empty"))


def test_a_full_disk_leaves_the_old_model(model, folder, monkeypatch):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "save_file", full)
    with pytest.raises(ModelError, match=r"could not be written .*: No space left on device\. Nothing was changed"):
        model.save(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_no_folder(folder):
    refused(folder.parent / "modle", "there is no model directory", "Did you mean 'model'?")
    refused(folder / "model.safetensors", "is a file of a model directory", "give the directory")


@pytest.mark.parametrize("name", ["model.safetensors", "spec.json", "labels.json", "manifest.json"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    refused(folder, str(folder), f"{name} is missing", "It holds: ")


@pytest.mark.parametrize("name", ["model.safetensors", "spec.json", "labels.json"])
@pytest.mark.parametrize("damage", ["cut", "longer", "one bit", "empty"])
def test_an_altered_file(folder, name, damage):
    data = bytearray((folder / name).read_bytes())
    if damage == "one bit":
        data[len(data) // 2] ^= 1
    changed = {"cut": data[:-1], "longer": data + b"\0", "one bit": data, "empty": b""}[damage]
    (folder / name).write_bytes(bytes(changed))
    refused(folder, str(folder / name), "is not the file that was saved", "Copy the directory again")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is not JSON"),
        ("[]", "not a manifest of format 1"),
        ('{"format": 2}', "not a manifest of format 1"),
        ('{"format": 1, "files": []}', "not a manifest of format 1"),
        ("[" * 100_000, "is not JSON"),
        ("\xff", "is not JSON"),
    ],
)
def test_a_damaged_manifest(folder, text, part):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    refused(folder, "manifest.json", part)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"1234567",
        b"PK\x03\x04" * 10,
        struct.pack("<Q", 2**60),
        struct.pack("<Q", 100),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b"{x}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_weights_that_are_no_safetensors(folder, start):
    rewritten(folder, "model.safetensors", start)
    refused(folder, str(folder / "model.safetensors"))


@pytest.mark.parametrize("about", ["x", "[]", "1", '"x"', "[" * 100_000])
def test_a_damaged_note_in_the_header(folder, about):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "other", metadata={"perceivers": about})
    rewritten(folder, "model.safetensors", (folder / "other").read_bytes())
    refused(folder, "damaged safetensors header")


def test_weights_for_another_model(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if name != "encoder.latents"}
    for changed, parts in (
        (kept, ["does not fit spec.json: 1 missing (first: encoder.latents)"]),
        ({**tensors, "zzz": torch.zeros(1)}, ["1 not wanted (first: zzz)"]),
        ({**kept, "encoder.latents": torch.zeros(5, 9)}, ["encoder.latents is (5, 9), wanted (5, 8)"]),
        (
            {**kept, "encoder.latents": torch.zeros(5, 8, dtype=torch.int32)},
            ["encoder.latents is of torch.int32, wanted torch.float32"],
        ),
    ):
        save_file(changed, folder / "other")
        rewritten(folder, "model.safetensors", (folder / "other").read_bytes())
        refused(folder, str(folder / "model.safetensors"), *parts)


def test_a_spec_with_a_fault_names_the_file(folder):
    spec = json.loads((folder / "spec.json").read_text())
    spec["latent"] = spec.pop("latents")
    rewritten(folder, "spec.json", json.dumps(spec).encode())
    with pytest.raises(SpecError, match=r"spec\.json has a fault:\n  latent: unknown key"):
        load(folder)


@pytest.mark.parametrize("changes", [{"layers": 10**9}, {"blocks": 10**9}, {"cross_attends": 10**9}])
def test_a_spec_that_would_build_for_ever_is_refused_at_once(folder, changes):
    spec = json.loads((folder / "spec.json").read_text())
    spec["encoder"] |= changes
    rewritten(folder, "spec.json", json.dumps(spec).encode())
    refused(folder, "does not fit spec.json", "but the spec asks for")


def test_files_too_large_to_be_what_they_should_be(folder, monkeypatch):
    monkeypatch.setattr(weights, "MOST_TEXT_BYTES", 10)
    refused(folder, "manifest.json", "the most is 10")
    monkeypatch.undo()
    monkeypatch.setattr(tensor_file, "MOST_HEADER_BYTES", 10)
    refused(folder, "is not a safetensors file")


def test_a_number_with_more_digits_than_python_reads(folder):
    (folder / "manifest.json").write_text('{"format": ' + "1" * 5000 + "}")
    refused(folder, "manifest.json' is not JSON: Exceeds the limit")


def test_nothing_is_pickled(folder):
    assert not [p for p in folder.iterdir() if p.read_bytes()[:2] in (b"\x80\x04", b"PK")]


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        (None, None),
        ({}, "the inputs photo, row, tags never went missing"),
        ({"row": 0.2, "photo": 0.0}, "the inputs photo, tags never went missing"),
        ({"tags": 0.2, "photo": 0.01, "row": 0.0}, "the input row never went missing"),
        ({"tags": 0.2, "photo": 0.0099, "row": 0.2}, "photo went missing in less than 1% of the samples"),
        (
            {"tags": 0.002, "photo": 0.0099},
            "the input row never went missing and photo, tags went missing in less than 1% of the samples",
        ),
    ],
)
def test_the_warning_about_absence(model, tmp_path, monkeypatch, absent, said):
    monkeypatch.setattr(model, "trained", None if absent is None else Trained(absent, {}))
    folder = save(model, tmp_path / "model")
    if said is None:
        load(folder)
        return
    with pytest.warns(UserWarning, match=rf"{folder}: in training {said}, so answers without are untried") as caught:
        loaded = load(folder)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "it points at the caller's line"
    assert loaded.trained == Trained(absent, {})


def test_a_model_saved_before_shares_were_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "trained", Trained({"photo": 1.0, "row": 1.0, "tags": 1.0}, {"train": "0"}))
    monkeypatch.setattr(
        weights, "asdict", lambda trained: {"absence_seen": sorted(trained.absent), "splits": dict(trained.splits)}
    )
    assert load(save(model, tmp_path / "model")).trained == model.trained


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps", "meta", "foo", "cup"])
def test_a_device_that_is_not_there(folder, device, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    near = " Did you mean 'cpu'?" if device == "cup" else ""
    with pytest.raises(SpecError) as caught:
        load(folder, device)
    assert str(caught.value) == f"there is no device '{device}' here.{near} Devices: cpu."


def test_the_devices_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for name in ("cpu", "cuda", "cuda:1"):
        assert checked_device(name) == checked_device(torch.device(name)) == torch.device(name)
    with pytest.raises(SpecError, match=r"there is no device 'cuda:2' here\..* Devices: cpu, cuda, cuda:0, cuda:1"):
        checked_device("cuda:2")


def test_a_run_folder_is_loaded_by_its_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run" / "model")
    state = load(tmp_path / "run").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load(folder).state_dict().items())


def test_the_recipe_is_kept_whole_too(model, tmp_path):
    folder = save(model, tmp_path / "model", recipe="data: {}\n")
    load(folder)
    (folder / "recipe.yaml").write_text("data: { }")
    refused(folder, "recipe.yaml' is not the file that was saved")
    (folder / "recipe.yaml").unlink()
    refused(folder, "is not a whole model directory: recipe.yaml is missing", "save the model anew from Python")


def test_no_warning_where_nothing_can_be_missing_or_all_was(model, tmp_path, monkeypatch):
    one = build({**SPEC, "inputs": {"row": SPEC["inputs"]["row"]}}, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.trained = Trained({}, {})
        monkeypatch.setattr(model, "trained", Trained(dict.fromkeys(("photo", "row", "tags"), 0.5), {}))
        load(save(one, tmp_path / "one"))
        load(save(model, tmp_path / "all"))


def test_a_copy_elsewhere_loads(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    load(str(tmp_path / "copy"))


def test_a_folder_of_many_files_is_not_listed_whole(tmp_path):
    for number in range(1000):
        (tmp_path / f"{number:04}.png").touch()
    with pytest.raises(ModelError, match=r"It holds: 0000\.png, .*, 0009\.png and 990 more\.$"):
        load(tmp_path)


def test_large_numbers_are_answered_alike_after_loading(tmp_path):
    """float32 knows 1.7e9 to two minutes only."""
    output = {"kind": "number", "mean": [1_700_000_060.0], "std": [1.0]}
    made = build({**SPEC, "outputs": {"time": output}}, seed=0).eval()
    again = load(made.save(tmp_path / "times"))
    answers = [m.output_module("time").answer("time", m([SAMPLE]).get("time"), {}) for m in (made, again)]
    assert answers[0] == answers[1]
