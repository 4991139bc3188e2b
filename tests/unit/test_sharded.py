"""One sample read by several processes: what one process finds, on every one of them; and no mistake makes them wait.

Four processes are started once, do all that `sharded_workers` says and write down what they found.
"""

import pytest
import sharded_workers as workers
import torch
import torch.multiprocessing as mp
from sharded_workers import ROUND_TRIPS, SHARES, WORKERS, a_model, a_sample, a_source, a_state, answers, loss_of

from perceivers.nn.attention.state import merged

# Of the largest number: sums in another order. Answers and gradients of a small model are sums of larger numbers that
# cancel; `benchmarks/sharded.py` measures a model of ordinary size.
FP64, FP32, FP32_GRADIENT = 1e-12, 3e-6, 5e-6
PATIENCE = 300


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the four processes found, by rank."""
    folder = tmp_path_factory.mktemp("workers")
    # Fresh processes that share one import of torch, where the system has that.
    way = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
    context = mp.get_context(way)
    if way == "forkserver":
        context.set_forkserver_preload(["perceivers.models.build"])
    started = [context.Process(target=workers.work, args=(rank, str(folder))) for rank in range(WORKERS)]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    # The last was to be killed.
    assert codes == [0, 0, 0, -9]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORKERS)]


@pytest.fixture(scope="module")
def alone():
    """What one process finds without a group."""
    return {
        (name, crosses, dtype): answers(a_model(name, crosses, dtype), a_sample(name, a_source(name)))
        for name, crosses, dtype in ROUND_TRIPS
    }


def assert_equal(found, wanted, dtype):
    assert found.keys() == wanted.keys()
    largest = max(float(g.abs().max()) for n, g in wanted.items() if n != "answer")
    for name, value in wanted.items():
        if name == "answer":
            size, tolerance = float(value.abs().max()), FP64 if dtype == torch.float64 else FP32
        else:
            size, tolerance = largest, FP64 if dtype == torch.float64 else FP32_GRADIENT
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=tolerance * size, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("size", SHARES)
@pytest.mark.parametrize("case", ROUND_TRIPS, ids=lambda case: f"{case[0]}-{case[1]}-{str(case[2])[6:]}")
def test_uneven_workers_find_what_one_process_finds(found, alone, case, size):
    for rank in range(size):
        assert_equal(found[rank]["answers"][(*case, size)], alone[case], case[2])


@pytest.mark.parametrize("case", ROUND_TRIPS, ids=lambda case: f"{case[0]}-{case[1]}-{str(case[2])[6:]}")
def test_a_whole_source_is_cut_by_itself(found, alone, case):
    for rank in range(WORKERS):
        assert_equal(found[rank]["cut"][case], alone[case], case[2])


@pytest.mark.parametrize("size", SHARES)
@pytest.mark.parametrize("case", ROUND_TRIPS, ids=lambda case: f"{case[0]}-{case[1]}-{str(case[2])[6:]}")
def test_all_workers_find_the_same_bits(found, case, size):
    first = found[0]["answers"][(*case, size)]
    for rank in range(1, size):
        other = found[rank]["answers"][(*case, size)]
        assert [name for name in first if not torch.equal(first[name], other[name])] == []


def test_what_is_sent_does_not_depend_on_the_elements(found):
    latents, queries, values, heads, channels = 5, 24, 24, 2, 2 + 41
    exchanged = 8 + 4096
    forward = 8 * (latents * (values + heads) + WORKERS)
    backward = 8 * (latents * queries + channels + queries * channels + values * channels + WORKERS)
    for rank in range(WORKERS):
        assert found[rank]["bytes"] == dict.fromkeys((150, 3000), (exchanged + forward + backward, 4))


@pytest.mark.parametrize("spread", [1.0, 1000.0], ids=["no maximum", "maximum exchanged"])
def test_states_are_merged_as_in_one_process(found, spread):
    states = [a_state(rank, spread) for rank in range(WORKERS)]
    whole = merged(states)
    loss_of(whole).backward()
    for rank, state in enumerate(states):
        # Where nobody read anything one process has no gradient to speak of.
        wanted = [*whole, state.lse.grad.nan_to_num(nan=0.0), state.read.grad]
        for one, other in zip(found[rank]["merged"][spread], wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_each_worker_tells_of_its_own_rows(found):
    assert [found[rank]["holes"] for rank in range(WORKERS)] == [(n, [(40, 40)]) for n in (0, 40, 0, 40)]


def test_without_a_source_every_worker_reads_all(found):
    for rank in range(WORKERS):
        together, alone = found[rank]["no source"]
        assert [name for name in alone if not torch.equal(together[name], alone[name])] == []


MISTAKES = {
    "names": ("the inputs that are no source differ: facts on rank 0, none on rank 2", "same inputs"),
    "no source": ("the sources differ: scene on rank 0, none on rank 1", "empty part"),
    "values": ("input 'facts' holds other values", "on rank 1"),
    "batch": ("differ in size: 1 on rank 0, 2 on rank 1", "same sample"),
    "length": ("shape of the source: [160, 2] on rank 0, [161, 2] on rank 3", "the whole"),
    "overlap": ("rows 8 to 16 twice", "rank 1: 8 to 136"),
    "gap": ("no rows 136 to 137", "rank 3: 137 to 160"),
    "short": ("no worker reads the rows 159 to 160", "every row once"),
    "patch": ("the rows of rank 2 begin at 133", "no multiple of the patch's 8"),
    "weights": ("the weights differ", "on rank 3"),
    "gradients": ("gradients are on: True on rank 0, False on rank 3", "torch.no_grad"),
    "training": ("the model is in training: True on rank 0, False on rank 2", "train()"),
    "random": ("the random states differ", "torch.manual_seed"),
    "dtype": ("the weights' dtype: torch.float64 on rank 0, torch.float32 on rank 1", "alike"),
    "autocast": ("autocast is on: False on rank 0, True on rank 3", "on none"),
    "frozen": ("weights that need no gradient: none on rank 0, outputs.", "on rank 2"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_error_on_every_worker(found, name):
    messages = [found[rank]["mistakes"][name] for rank in range(WORKERS)]
    assert len(set(messages)) == 1
    assert messages[0][0] == "GroupError"
    for part in MISTAKES[name]:
        assert part in messages[0][1]


OWN = {
    "unknown input": (1, "unknown input 'photo'", "rank 1 has no batch to read. It says: DataError: unknown input"),
    "once": (0, "", "rank 0 has no batch to read. It says: DataError: stream"),
    "broken in pass 1": (0, "broken.npy: it ended after 15 of 16 rows", "sum of states was given up"),
    "broken in pass 2": (0, "broken.npy: it ended after 15 of 16 rows", "sum of gradients was given up"),
}


@pytest.mark.parametrize("name", OWN)
def test_what_fails_on_one_worker_stops_all(found, name):
    guilty, own, others = OWN[name]
    for rank in range(WORKERS):
        kind, message = found[rank]["mistakes"][name]
        assert kind == ("DataError" if rank == guilty else "GroupError")
        assert (own if rank == guilty else others) in message
        assert rank == guilty or f"rank {guilty} " in message


def test_a_killed_worker_is_missed(found):
    for rank in range(WORKERS - 1):
        kind, message = found[rank]["killed"]
        assert kind == "GroupError"
        assert f"rank {rank} of {WORKERS} waited for the sum of states in vain" in message
        assert "died" in message


def test_a_worker_that_does_not_come_is_missed_after_the_timeout(found):
    kind, message = found[0]["stalled"]
    assert kind == "GroupError"
    assert f"rank 0 of {WORKERS} waited for the exchange of what each was given in vain" in message
    assert "timeout" in message
