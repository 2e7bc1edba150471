"""The ladder of memory arrangements: leaner all the way down, chosen to fit, stepped down twice at
most; what a process may take, and what it gives back.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.bridge.errors import UserError
from engine.models import memory
from engine.models.memory import GIB, Demand, Residence, Rung

# ViewCrafter at 25 x 576 x 1024: weights counted, working memory about that of a pretended device
VIEWCRAFTER = Demand(
    2_877_709_960,
    1_530_000_000,
    12_000 * 25 * 72 * 128,
    **memory.clip_bytes(25, 576, 1024, 36, 2000, 512 * 512 * 2000),
    layer=58_982_400,  # a convolution from 2560 to 1280 channels
    width=1024,
    multiple=64,
)

demands = st.builds(
    Demand,
    denoiser=st.integers(1, 40 * GIB),
    layer=st.integers(1, GIB),
    companions=st.integers(0, 12 * GIB),
    branch=st.integers(1, 30 * GIB),
    code=st.integers(10 * GIB, 20 * GIB),
    code_tiled=st.integers(0, 10 * GIB),
    held=st.integers(0, 3 * GIB),
    branches=st.sampled_from([1, 2, 4]),
    can_tile=st.booleans(),
    can_store_8bit=st.booleans(),
)


@given(demands)
def test_every_rung_is_leaner_than_the_one_before(demand):
    rungs = memory.ladder(demand)
    assert rungs[0].branches == demand.branches and rungs[0].offload == "none"
    assert all(a.estimate > b.estimate for a, b in itertools.pairwise(rungs))
    assert all(demand.can_tile or not rung.tiling for rung in rungs)
    assert all(demand.can_store_8bit or not rung.store_8bit for rung in rungs)


@given(demands, st.integers(0, 100 * GIB))
def test_the_plan_fits_and_nothing_faster_would(demand, free):
    rungs = memory.ladder(demand)
    try:
        rung = memory.plan(free, demand)
    except UserError as error:
        assert rungs[-1].estimate > free * 0.96
        assert "GiB" in error.message and error.hint
        return
    assert rung.estimate <= free * 0.96
    faster = rungs[: rungs.index(rung)]
    assert all(other.estimate > free * 0.96 for other in faster)


@given(demands, st.integers(0, 30 * GIB))
def test_no_rung_promises_less_than_its_tensors_with_their_margin(demand, free):
    """Whatever lies on the device together in some stage, 15 % and 0.6 GiB are added to it."""
    for rung in memory.ladder(demand):
        weights = demand.denoiser / (2 if rung.store_8bit else 1)
        if rung.offload == "layers":
            weights = min(weights, 3 * demand.layer)
        predicting = weights + rung.branches * demand.branch
        coding = demand.companions + (demand.code_tiled if rung.tiling else demand.code)
        if rung.offload == "none":
            predicting, coding = predicting + demand.companions, coding + weights
        for together in (predicting, coding):
            assert rung.estimate >= int(1.15 * together + 0.6 * GIB + demand.held) - 2


def test_a_refusal_names_the_largest_width_that_fits() -> None:
    for free in (3.5, 4.0, 4.5):
        with pytest.raises(UserError, match="Too little GPU memory") as caught:
            memory.plan(int(free * GIB), VIEWCRAFTER)
        width = int(re.search(r"Set width to (\d+)", caught.value.hint)[1])
        assert width % 64 == 0 and width < 1024
        memory.plan(int(free * GIB), VIEWCRAFTER.at(width))
        with pytest.raises(UserError):
            memory.plan(int(free * GIB), VIEWCRAFTER.at(width + 64))
    with pytest.raises(UserError) as caught:
        memory.plan(GIB, VIEWCRAFTER)
    assert "No smaller width fits" in caught.value.hint
    with pytest.raises(UserError) as caught:
        memory.plan(GIB, dataclasses.replace(VIEWCRAFTER, width=0))
    assert "at this size alone" in caught.value.hint


def test_viewcrafter_on_known_cards():
    """The authors' code needs 23.5 GB for one branch in 32 bits; here a card of 8 GB will do, and
    one of 24 GB does all four at once.
    """
    assert memory.plan(80 * GIB, VIEWCRAFTER) == memory.ladder(VIEWCRAFTER)[0]
    assert memory.plan(22 * GIB, VIEWCRAFTER).branches == 4
    assert memory.plan(14 * GIB, VIEWCRAFTER).branches == 2
    assert memory.plan(11 * GIB, VIEWCRAFTER).offload in ("none", "parts")
    assert memory.plan(int(7.8 * GIB), VIEWCRAFTER).offload == "parts"
    assert memory.plan(6 * GIB, VIEWCRAFTER).offload == "layers"


def test_the_user_reads_what_was_chosen():
    text = Rung(1, "parts", True, True, 9 * GIB).text()
    assert (
        text == "1 branch at a time, idle networks in main memory, decoding in tiles, weights in "
        "8 bits; about 9.0 GiB"
    )
    assert Rung(4, "none", estimate=GIB).text() == "4 branches at a time; about 1.0 GiB"


def residence(**kwargs) -> Residence:
    return Residence(
        "cpu",
        VIEWCRAFTER,
        torch.nn.Linear(2, 2),
        [torch.nn.Linear(2, 2)],
        memory.ladder(VIEWCRAFTER)[0],
        **kwargs,
    )


@pytest.mark.parametrize("shortages", [1, 2])
def test_out_of_memory_steps_down_and_finishes(shortages: int):
    home, seen = residence(), []

    def work(rung: Rung) -> str:
        seen.append(rung)
        if len(seen) <= shortages:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return "done"

    assert home.run(work) == "done"
    estimates = [rung.estimate for rung in seen]
    assert estimates == sorted(set(estimates), reverse=True) and len(seen) == shortages + 1
    assert home.rung == seen[-1]  # and stays there
    assert home.run(lambda rung: rung) == seen[-1]


def test_out_of_memory_thrice_is_told_plainly():
    home, seen = residence(), []

    def work(rung: Rung) -> None:
        seen.append(rung)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="ran out of memory") as caught:
        home.run(work)
    assert "segment length" in caught.value.hint and len(seen) == 3
    with pytest.raises(UserError):
        home.run(work)
    assert len(seen) == 4  # no more steps: it is told at once


def test_a_process_may_have_what_is_free_and_its_own_and_no_more(monkeypatch):
    """On a card of 12 GiB with 9 free, of which this process has 1 in hand: 1 + 9 less a share."""
    told = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (9 * GIB, 12 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: GIB)
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda share, place: told.append((share, place)),
    )
    memory.cap("cpu")
    assert told == []
    memory.cap("cuda")
    memory.cap("cuda:1")
    assert [place for _, place in told] == [None, 1]  # torch refuses "cuda" without a number here
    assert told[0][0] * 12 == pytest.approx(1 + 9 * 0.96)


def test_between_its_turns_a_prior_gives_back_what_its_rung_lets_go():
    for offload, moved in (("none", []), ("parts", ["cpu", "cpu"]), ("layers", ["cpu"])):
        home = residence()
        home.rung = Rung(1, offload)
        seen = []
        for module in (home._denoiser, *home._companions):
            module.to = lambda place, seen=seen: seen.append(str(place))
        memory.rest(type("Prior", (), {"residence": home})())
        assert seen == moved


def test_streamed_layers_take_more_branches_where_there_is_room() -> None:
    """A call streams all weights once, however many branches it has."""
    large = dataclasses.replace(VIEWCRAFTER, denoiser=33 * GIB)
    streamed = [r for r in memory.ladder(large) if r.offload == "layers"]
    assert [r.branches for r in streamed] == [4, 2, 1]
    assert memory.plan(24 * GIB, large).branches == 4
    assert memory.plan(6 * GIB, large).branches == 1


def test_weights_are_pinned_only_where_main_memory_has_room_for_them() -> None:
    """torch gives a tensor of 5 MiB a pinned block of 8; half of the main memory may be pinned."""
    mib = 2**20
    network = torch.nn.Linear(1, 5 * mib // 4, bias=False)
    assert memory.can_be_pinned(network, 16 * mib)
    assert not memory.can_be_pinned(network, 16 * mib - 1)
    assert not memory.can_be_pinned(network, 0)
    whole = torch.nn.Linear(1, 2 * mib, bias=False)  # a power of two is not rounded
    assert memory.can_be_pinned(whole, 16 * mib) and not memory.can_be_pinned(whole, 16 * mib - 1)


def test_streamed_layers_give_the_same_result():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU(), torch.nn.Linear(8, 8))
    x = torch.randn(3, 8)
    expected = network(x)
    home = Residence("cpu", VIEWCRAFTER, network, [], Rung(1, "layers"))
    home.denoiser()
    home.companions()
    home.denoiser()
    assert torch.allclose(network(x), expected)


def test_streamed_layers_step_down_from_the_middle_of_a_call() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU(), torch.nn.Linear(8, 8))
    x = torch.randn(4, 8)
    expected = network(x)
    home = Residence("cpu", VIEWCRAFTER, network, [], Rung(4, "layers"))
    home._rungs = [Rung(n, "layers", estimate=n) for n in (4, 2, 1)]
    home.rung = home._rungs[0]
    seen = []

    def full(*_) -> None:
        seen.append(home.rung.branches)
        if home.rung.branches > 1:
            raise torch.OutOfMemoryError("no room")

    network[1].register_forward_hook(full)

    def work(rung: Rung) -> torch.Tensor:
        home.denoiser()
        return torch.cat([network(part) for part in x.split(rung.branches)])

    assert torch.allclose(home.run(work), expected)
    assert seen[:3] == [4, 2, 1]


def test_the_report_tells_the_arrangement_on_a_gpu_alone():
    home = residence()
    prior = type("Prior", (), {"residence": home})()
    assert memory.described(prior) == {} and memory.described(object()) == {}
    home.device = torch.device("cuda")
    assert memory.described(prior) == {"memory of the prior": home.rung.text()}
