"""The ladder of memory arrangements: leaner all the way down, chosen to fit, stepped down once."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.bridge.errors import UserError
from engine.models import memory
from engine.models.memory import GIB, Demand, Residence, Rung

# ViewCrafter at 25 x 576 x 1024: weights counted, working memory fitted to its authors' figures
VIEWCRAFTER = Demand(2_877_709_960, 1_530_000_000, 57_000 * 25 * 72 * 128, 4000 * 576 * 1024)

demands = st.builds(
    Demand,
    denoiser=st.integers(1, 40 * GIB),
    companions=st.integers(0, 12 * GIB),
    branch=st.integers(1, 30 * GIB),
    decode=st.integers(0, 20 * GIB),
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
        assert rungs[-1].estimate > free * 0.92
        assert "GiB" in error.message and error.hint
        return
    assert rung.estimate <= free * 0.92
    faster = rungs[: rungs.index(rung)]
    assert all(other.estimate > free * 0.92 for other in faster)


def test_viewcrafter_on_known_cards():
    """The authors need 23.5 GB for one branch with everything in 32 bits; in 16 bits 16 GB cards
    should do.
    """
    assert memory.plan(80 * GIB, VIEWCRAFTER) == memory.ladder(VIEWCRAFTER)[0]
    assert memory.plan(22 * GIB, VIEWCRAFTER).branches == 1
    assert memory.plan(17 * GIB, VIEWCRAFTER).offload in ("parts", "layers")
    with pytest.raises(UserError, match="Too little GPU memory"):
        memory.plan(6 * GIB, VIEWCRAFTER)


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


def test_out_of_memory_steps_down_once_and_finishes():
    home, seen = residence(), []

    def work(rung: Rung) -> str:
        seen.append(rung)
        if len(seen) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return "done"

    assert home.run(work) == "done"
    assert seen[1].estimate < seen[0].estimate
    assert home.rung == seen[1]  # and stays there
    assert home.run(lambda rung: rung) == seen[1]


def test_out_of_memory_twice_is_told_plainly():
    home = residence()

    def work(rung: Rung) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="ran out of memory") as caught:
        home.run(work)
    assert "segment length" in caught.value.hint
    with pytest.raises(UserError):
        home.run(work)


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


def test_the_report_tells_the_arrangement_on_a_gpu_alone():
    home = residence()
    prior = type("Prior", (), {"residence": home})()
    assert memory.described(prior) == {} and memory.described(object()) == {}
    home.device = torch.device("cuda")
    assert memory.described(prior) == {"memory of the prior": home.rung.text()}
