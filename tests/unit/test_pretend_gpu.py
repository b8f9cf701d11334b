"""The pretended GPU allows and refuses what a real one does; where there is a real one, it takes the same tests."""

import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("_gpu")


def here() -> torch.Tensor:
    return torch.arange(6.0).view(2, 3)


def there() -> torch.Tensor:
    return here().to("cuda")


def assign(whole: torch.Tensor, index: object, value: object) -> torch.Tensor:
    whole[index] = value  # type: ignore[index]
    return whole


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: here() + there(),
        lambda: there().add_(here()),
        lambda: here() @ there().T,
        lambda: torch.cat([here(), there()]),
        lambda: torch.where(there() > 1, here(), 0),
        lambda: nn.Linear(3, 1)(there()),
        lambda: nn.Embedding(6, 2)(there().long()),
        lambda: here().index_select(0, torch.tensor([1], device="cuda")),
        lambda: there().masked_fill(here() > 1, 0),
        lambda: torch.searchsorted(there()[0], here()[0]),
        lambda: here()[torch.tensor([0], device="cuda")],
        lambda: here()[there() > 1],
        lambda: assign(there(), torch.tensor([0]), here()[:1]),
        lambda: torch.zeros((), device="cuda") + here(),
        lambda: torch.zeros_like(there()) * torch.zeros_like(here()),
        lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
        lambda: torch.multinomial(there() + 1, 1, generator=torch.Generator()),
        lambda: torch.equal(here(), there()),
    ],
)
def test_what_cuda_refuses_is_refused(mixed: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="device"):
        mixed()


@pytest.mark.parametrize(
    "use",
    [
        lambda: there() + torch.tensor(2.0),
        lambda: there()[torch.tensor([0, 1])],
        lambda: there()[here() > 1],
        lambda: assign(there(), 0, here()[0]),
        lambda: assign(there(), there() > 1, 0.0),
        lambda: torch.zeros(2, 3, device="cuda").copy_(here()),
        lambda: torch.zeros_like(here(), device="cuda"),
        lambda: here().to(there()),
        lambda: there().new_zeros(3),
        lambda: there().sort(1)[1],
        lambda: there().double().T.flatten().split(2)[0],
        lambda: copy.deepcopy(there()),
        lambda: nn.Linear(3, 1).to("cuda")(there()),
    ],
)
def test_what_cuda_allows_stays_on_the_gpu(use: Callable[[], torch.Tensor]) -> None:
    assert use().device.type == "cuda"
    assert use().is_cuda


@pytest.fixture
def _impatient(_gpu: None) -> None:
    there()  # initialise CUDA first if the GPU is real
    torch.cuda.set_sync_debug_mode("error")


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "wait",
    [
        lambda given: given[0, 0].item(),
        lambda given: given.tolist(),
        lambda given: bool(given[0, 0]),
        lambda given: int(given.max()),
        lambda given: float(given.max()),
        lambda given: given.nonzero(),
        lambda given: torch.where(given > 1),
        lambda given: given[given > 1],
        lambda given: given[given[0] > 0, 0],
        lambda given: assign(given, given > 1, given[0]),
        lambda given: given[[0, 1]],
        lambda given: given[torch.tensor([0, 1])],
        lambda given: given[: given[0, 1].long()],
        lambda given: given.masked_select(given > 1),
        lambda given: given.unique(),
        lambda given: given[0].long().bincount(),
        lambda given: given[0].repeat_interleave(given[0].long()),
        lambda given: torch.equal(given, given),
        lambda given: given.cpu(),
        lambda given: given.to("cpu", torch.long),
        lambda given: here().to(given),
        lambda given: here().pin_memory().to("cuda"),
        lambda given: given.copy_(here()),
        lambda given: assign(given, 0, here()[0]),
        lambda given: torch.tensor(0.5, device="cuda"),
        lambda given: given.new_tensor([0.5]),
    ],
)
def test_calls_that_wait_for_the_gpu_are_refused_on_demand(wait: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        wait(torch.ones(2, 3, device="cuda"))


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "use",
    [
        lambda given: given[0] + 1,
        lambda given: given[given[0].long()],
        lambda given: given[None, :1, ..., 1],
        lambda given: assign(given, slice(None, None, 2), given[1]),
        lambda given: assign(given, given > 1, 0.0),
        lambda given: assign(given, (given[0, :2].long(), slice(None)), given[0] + 1),
        lambda given: torch.where(given > 1, given, 0.0),
        lambda given: given.masked_fill(given > 1, 2.0),
        lambda given: given[0].repeat_interleave(2),
        lambda given: here().pin_memory().to("cuda", non_blocking=True),
        lambda given: given.copy_(here().pin_memory(), non_blocking=True),
        lambda given: torch.rand(2, 3, device="cuda").argmax(1),
        lambda given: given.new_full((), 0.5),
    ],
)
def test_calls_that_only_tell_the_gpu_what_to_do_are_not(use: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert use(torch.ones(2, 3, device="cuda")).is_cuda


def test_nobody_minds_waiting_otherwise() -> None:
    assert int(there().max()) == 5


@pytest.mark.parametrize(
    "use",
    [
        lambda: there().cpu(),
        lambda: there().to("cpu", torch.long),
        lambda: torch.zeros(2, 3).copy_(there()),
        lambda: there().to(here()),
        lambda: torch.zeros_like(there(), device="cpu"),
        lambda: torch.tensor(there().tolist()),
        lambda: torch.zeros(there().shape),
    ],
)
def test_what_comes_back_is_on_the_cpu(use: Callable[[], torch.Tensor]) -> None:
    assert use().device.type == "cpu"
    assert use().numpy().shape == (2, 3)


def test_numpy_does_not_see_the_gpus_memory() -> None:
    with pytest.raises(TypeError, match="can't convert cuda"):
        there().numpy()
    with pytest.raises(TypeError, match="can't convert cuda"):
        np.asarray(there())


def test_moving_copies_and_a_module_keeps_its_parameters() -> None:
    original = here()
    assert original.to("cuda").data_ptr() != original.data_ptr()
    net = nn.GRU(3, 4)
    before = list(net.parameters())
    assert all(ours is theirs for ours, theirs in zip(before, net.to("cuda").parameters(), strict=True))
    assert all(weight.is_cuda for weight in before)
    assert not any(weight.is_cuda for weight in net.cpu().parameters())


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_training_happens_where_the_weights_are(options: dict[str, bool]) -> None:
    net = nn.Linear(3, 1).to("cuda")
    optimizer = torch.optim.AdamW(net.parameters(), **options)
    before = net.weight.clone()
    net(there()).sum().backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    assert net.weight.grad is not None
    assert all(each.is_cuda for each in (net.weight, net.weight.grad, optimizer.state[net.weight]["exp_avg"]))
    assert not torch.equal(before, net.weight)


def test_a_gradient_that_lies_otherwise_in_memory_is_no_fused_step() -> None:
    weight = nn.Parameter(there())
    weight.grad = there().T.contiguous().T
    with pytest.raises(RuntimeError, match="same dtype, device, and layout"):
        torch.optim.AdamW([weight], fused=True).step()


def test_what_is_saved_is_read_on_a_machine_without_a_gpu() -> None:
    file = io.BytesIO()
    torch.save(nn.Linear(3, 1).to("cuda").state_dict(), file)
    file.seek(0)
    weights = torch.load(file, map_location="cpu", weights_only=True)
    assert weights["weight"].device.type == "cpu"
    nn.Linear(3, 1).to("cuda").load_state_dict(weights)


def test_a_copied_recurrent_net_must_be_flattened() -> None:
    net = nn.GRU(3, 4, batch_first=True).to("cuda")
    values, start = there()[None], torch.zeros(1, 1, 4, device="cuda")
    expected = net(values, start)[0]
    assert expected.is_cuda
    scattered = copy.deepcopy(net)
    with pytest.raises((RuntimeError, UserWarning), match="single contiguous chunk"):
        scattered(values, start)
    scattered.flatten_parameters()
    torch.testing.assert_close(scattered(values, start)[0], expected)


def test_the_gpu_has_a_stream_of_its_own() -> None:
    torch.manual_seed(1)
    cpu, gpu = torch.get_rng_state(), torch.cuda.get_rng_state_all()
    first = torch.rand(3, device="cuda")
    assert torch.equal(cpu, torch.get_rng_state())
    assert not torch.equal(first, torch.rand(3, device="cuda"))
    torch.cuda.set_rng_state_all(gpu)
    assert torch.equal(first, torch.rand(3, device="cuda"))
    torch.manual_seed(1)
    assert torch.equal(first, torch.rand_like(first))
