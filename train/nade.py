"""The generator of 0/1 rows, which draws bits one after the other.

On a GPU it uses as few torch operations as possible; on a CPU, the compiled loops at the end draw rows. This module is
a LEAF (see train/__init__.py).
"""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor, nn

from train.generator import Generator

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

ROWS_ABREAST = 16  # rows drawn side by side: weights for thousands of bits, more than the cache holds, are read once
BLOCK = 16  # bits for which `hidden_term` computes the hidden units in one matrix product


class NadeGenerator(Generator):
    """Draws each bit given all earlier ones; every row by one of several nets and in one of several latent classes.

    A neural autoregressive distribution estimator (Larochelle and Murray 2011) with three additions: direct
    connections between bits, a table of logits indexed by the last `WINDOW` bits and shared by all positions, and
    latent classes. With x_s the earlier bits less their columns' means, r the net and k the class of the row,

        logit_t = bias_rt + class_bias_rkt + sum_s direct_rts x_s + local_r[last bits]
                  + output_rt . relu(hidden_bias_r + class_hidden_rk + sum_s input_rs x_s)

    and bit t is 1 where logit_t plus logistic noise is positive: rounding is an exact draw of the bit. In training the
    forward value is the rounded bit, and the gradient is that of the binary concrete relaxation (Maddison et al. 2017)
    at temperature `TAU`. It stops at the logit that the bit was drawn from, ignoring that later bits depended on this
    one; so all logits come from one pass over the finished rows.
    """

    name = "nade"
    WINDOW = 8
    TAU = 0.66
    center: Tensor  # what is taken from each bit where the nets read it, (nets, length)
    prior: Tensor  # the share of each class, (nets, classes)
    place: Tensor  # row t times the bits of a row is bit t's index into `local`, (length, length)

    def __init__(self, length: int, hidden: int, nets: int, classes: int) -> None:
        super().__init__()
        self.length, self.hidden, self.nets, self.classes = length, hidden, nets, classes
        self.noise_size = length + 2  # a number for each bit, one for the net, one for the class
        self.input = nn.Parameter(0.1 * torch.randn(nets, length, hidden))
        self.hidden_bias = nn.Parameter(0.1 * torch.randn(nets, hidden))
        self.output = nn.Parameter(torch.zeros(nets, length, hidden))
        self.direct = nn.Parameter(torch.zeros(nets, length, length))
        self.local = nn.Parameter(torch.zeros(nets, 2**self.WINDOW))
        self.bias = nn.Parameter(torch.zeros(nets, length))
        self.class_hidden = nn.Parameter(torch.zeros(nets, classes, hidden))
        self.class_bias = nn.Parameter(torch.zeros(nets, classes, length))
        self.register_buffer("center", torch.full((nets, length), 0.5))
        self.register_buffer("prior", torch.full((nets, classes), 1 / classes))
        age = torch.arange(length)[:, None] - torch.arange(length) - 1
        place = torch.where((age >= 0) & (age < self.WINDOW), 2.0**age, 0.0)
        self.register_buffer("place", place, persistent=False)
        # Models of earlier versions took 1/2 from all bits, and did not save it.
        self.register_load_state_dict_pre_hook(
            lambda _, state, prefix, *rest: state.setdefault(f"{prefix}center", torch.full((nets, length), 0.5))
        )

    def config(self) -> dict[str, Any]:
        return {**super().config(), "hidden": self.hidden, "nets": self.nets, "classes": self.classes}

    def forward(self, noise: Tensor) -> Tensor:
        """Bits without a gradient; only `stratified` has one."""
        (net, latent), logistic = self._choose(noise), self._logistic(noise)
        return _rounded(self._draw(net, latent, logistic))

    def codes(self, noise: Tensor) -> Tensor:
        if not self.bias.is_cpu:
            return super().codes(noise)
        # For a single row, a few operations of torch would take longer than both loops.
        net, latent = np.empty(len(noise), np.int64), np.empty(len(noise), np.int64)
        given = noise.to(self.bias).numpy()
        noisy = np.empty((len(noise), self.length), given.dtype)
        _read_noise(given, self.prior.numpy(), net, latent, noisy)
        _draw_rows(net, latent, noisy, *self._arrays())
        return torch.from_numpy((noisy > 0).view(np.uint8))

    def stratified(self, noise: Tensor, first: int) -> Tensor:
        place, width = torch.arange(len(noise), device=noise.device), -(-len(noise) // self.nets)
        net, column = (first + place) % self.nets, place // self.nets
        latent, logistic = self._latent(noise, net), self._logistic(noise)
        bits = _rounded(self._draw(net, latent, logistic, (column, width)))
        logits = torch.empty_like(bits)
        for i in range(min(self.nets, len(noise))):
            rows = slice(i, None, self.nets)
            logits[rows] = self.logits(bits[rows], (first + i) % self.nets, latent[rows])
        soft = torch.sigmoid((logits + logistic) / self.TAU)
        return bits + (soft - soft.detach())  # straight-through: the bits, with the gradient of their relaxation

    def probabilities(self, noise: Tensor) -> Tensor:
        """P(bit = 1 | the bits before it) for the rows drawn from the noise, (rows, length).

        Its mean over rows estimates a column's mean with less variance than the bits do (Rao and Blackwell).
        """
        (net, latent), logistic = self._choose(noise), self._logistic(noise)
        return (self._draw(net, latent, logistic) - logistic).sigmoid()

    def _choose(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's net and class, (rows,) both."""
        net = (noise[:, -2] * self.nets).long().clamp(max=self.nets - 1)
        return net, self._latent(noise, net)

    def _latent(self, noise: Tensor, net: Tensor) -> Tensor:
        """Each row's class, given its net, (rows,)."""
        return (noise[:, -1:] >= self.prior.cumsum(1)[net]).sum(1).clamp(max=self.classes - 1)

    def _logistic(self, noise: Tensor) -> Tensor:
        """Logistic noise for each bit, (rows, length)."""
        return torch.logit(noise[:, : self.length], eps=torch.finfo(noise.dtype).eps)

    @torch.no_grad()
    def _draw(self, net: Tensor, latent: Tensor, logistic: Tensor, columns: tuple[Tensor, int] | None = None) -> Tensor:
        """Each bit's logit plus its logistic noise, (rows, length): the bit is 1 where that is positive.

        Args:
            columns: the result of `_columns`, if it is known without reading `net` back from the GPU.
        """
        if not logistic.is_cpu:
            return self._draw_columns(net, latent, logistic, *(columns or _columns(net)))
        noisy = logistic.clone()
        _draw_rows(net.numpy(), latent.numpy(), noisy.numpy(), *self._arrays())
        return noisy

    def _arrays(self) -> list[Floats]:
        """The parameters, in the order of the constructor, and `center`. `parameters()` takes longer than a row."""
        return [cast(Tensor, each).detach().numpy() for each in (*self._parameters.values(), self.center)]

    def _draw_columns(self, net: Tensor, latent: Tensor, logistic: Tensor, column: Tensor, width: int) -> Tensor:
        """As `_draw`, in few operations: each net's rows become the columns of one matrix, padded to a common width,
        so that a step is one product for each net, and weights need not be gathered for each row.

        Args:
            column: each row's column in its net's matrix, (rows,).
            width: columns per net.
        """
        start, logit = self._start(net, latent)
        hidden = logistic.new_zeros(self.nets, self.hidden, width)
        hidden[net, :, column] = start
        noisy = logistic.new_zeros(self.length, self.nets, 1, width)
        noisy[:, net, 0, column] = (logit + logistic).T
        # The active hidden units, and below them the centred bits; bits not drawn yet are 0 and contribute nothing.
        seen = logistic.new_zeros(self.nets, self.hidden + self.length, width)
        active, *bits = seen.split([self.hidden] + [1] * self.length, dim=1)
        weight = torch.cat([self.output, self.direct], dim=2).unsqueeze(2).unbind(1)
        effect = self.input.unsqueeze(3).unbind(1)
        local, recent = self.local[:, None], column.new_zeros(self.nets, 1, width)
        # Constants as tensors: converting a Python number takes as long as the operation.
        zero, window = logistic.new_zeros(()), recent.new_full((), 2**self.WINDOW - 1)
        center = self.center[:, :, None, None].unbind(1)
        last = torch.empty_like(recent)
        for t, (bit, logit) in enumerate(zip(bits, noisy, strict=True)):
            torch.maximum(hidden, zero, out=active)
            logit.baddbmm_(weight[t], seen)
            logit += local.gather(2, recent)
            torch.heaviside(logit, zero, out=bit)
            torch.add(last.copy_(bit), recent, alpha=2, out=recent).bitwise_and_(window)
            bit -= center[t]
            hidden.addcmul_(effect[t], bit)
        return noisy[:, net, 0, column].T

    def logits(self, rows: Tensor, net: int, latent: Tensor) -> Tensor:
        """The logit of every bit of given rows, (rows, length), under one net and the given classes (rows,)."""
        hidden, logit = self._start(torch.full_like(latent, net), latent)
        centred = rows - self.center[net]
        recent = last_bits(rows, self.WINDOW) if rows.is_cpu else (rows @ self.place.T).long()
        logit = logit + centred @ self.direct[net].tril(-1).T + self.local[net][recent]
        term: Any = HiddenTerm.apply if rows.is_cpu else hidden_term
        return logit + term(centred, hidden, self.input[net], self.output[net])

    def _start(self, net: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden units and logits before any bit is known: (rows, hidden) and (rows, length)."""
        return (
            self.hidden_bias[net] + self.class_hidden[net, latent],
            self.bias[net] + self.class_bias[net, latent],
        )


def hidden_term(bits: Tensor, start: Tensor, effect: Tensor, output: Tensor) -> Tensor:
    """The hidden units' contribution to the logit of every bit, (rows, length), for one net, in few operations.

    Args:
        bits: centred, (rows, length).
        start: hidden units before any bit is known, (rows, hidden).
        effect, output: the net's `input` and `output`, (length, hidden).
    """
    found, hidden = [], start
    for some, weight, out in zip(bits.split(BLOCK, 1), effect.split(BLOCK), output.split(BLOCK), strict=True):
        # (rows, block, bits of the block before it)
        earlier = some[:, None, :] * weight.new_ones(len(weight), len(weight)).tril(-1)
        found.append((torch.relu(hidden[:, None] + earlier @ weight) * out).sum(2))
        hidden = hidden + some @ weight
    return torch.cat(found, dim=1)


class HiddenTerm(torch.autograd.Function):
    """As `hidden_term`, in compiled code: with the gradient it takes a quarter of the time."""

    @staticmethod
    def forward(ctx: Any, bits: Tensor, start: Tensor, effect: Tensor, output: Tensor) -> Tensor:
        ctx.save_for_backward(bits, start, effect, output)
        found = torch.empty_like(bits)
        _hidden_term_forward(*(each.detach().numpy() for each in (bits, start, effect, output, found)))
        return found

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        given = [each.detach() for each in ctx.saved_tensors]
        grads = [torch.zeros_like(each) for each in given[1:]]
        _hidden_term_backward(grad_output.contiguous().numpy(), *(each.numpy() for each in (*given, *grads)))
        return None, *grads


def last_bits(rows: Tensor, window: int) -> Tensor:
    """The bits before each bit, at most `window`, as a binary number whose last digit is the latest: (rows, length)."""
    found = torch.empty_like(rows, dtype=torch.long)
    _fill_last_bits(rows.detach().numpy(), 2**window, found.numpy())
    return found


def _columns(net: Tensor) -> tuple[Tensor, int]:
    """For each row, the number of earlier rows with the same net, (rows,); and the largest number of rows of a net."""
    order = net.argsort(stable=True)
    counts = net.bincount()
    rank = torch.empty_like(net)
    rank[order] = torch.arange(len(net), device=net.device) - (counts.cumsum(0) - counts)[net[order]]
    return rank, int(counts.max())


def _rounded(noisy_logits: Tensor) -> Tensor:
    return (noisy_logits > 0).to(noisy_logits)


def compile_loops() -> None:
    """Compile what a CPU trains with. That takes seconds, which else would be those of the first step."""
    one = np.zeros((1, 1), np.float32)
    _fill_last_bits(one, 1, np.zeros((1, 1), np.int64))
    _hidden_term_forward(one, one, one, one, one.copy())
    _hidden_term_backward(one, one, one, one, one, *(one.copy() for _ in range(3)))
    with torch.random.fork_rng(devices=[]):
        NadeGenerator(length=1, hidden=1, nets=1, classes=1).codes(torch.zeros(1, 3))


@njit(nogil=True)
def _read_noise(noise: Floats, prior: Floats, net: Ints, latent: Ints, logistic: Floats) -> None:
    """Fill in each row's net and class, (rows,), and its logistic noise, (rows, length), from uniform noise.

    The same as `NadeGenerator._choose` and `_logistic`.
    """
    (nets, classes), one, edge = prior.shape, noise.dtype.type(1), np.finfo(noise.dtype).eps
    for row in range(len(noise)):
        r = net[row] = min(int(noise[row, -2] * nets), nets - 1)
        k, share = 0, prior[r, 0]
        while k < classes - 1 and noise[row, -1] >= share:
            k += 1
            share += prior[r, k]
        latent[row] = k
        for t in range(logistic.shape[1]):
            uniform = min(max(noise[row, t], edge), one - edge)
            logistic[row, t] = np.log(uniform / (one - uniform))


# Allowing sums in another order ("reassoc") more than halves the time for a row.
@njit(nogil=True, fastmath={"reassoc"})
def _draw_rows(
    net: Ints,
    latent: Ints,
    noisy: Floats,
    input: Floats,
    hidden_bias: Floats,
    output: Floats,
    direct: Floats,
    local: Floats,
    bias: Floats,
    class_hidden: Floats,
    class_bias: Floats,
    center: Floats,
) -> None:
    """Draw bits one after the other, since each depends on those before it, of some rows of a net at the same time.

    Args:
        net, latent: each row's net and latent class, int64 (rows,).
        noisy: logistic noise, (rows, length); every bit's logit is added to it.
        input, ...: the generator's parameters, in the order of its constructor, and `center`.
    """
    length, units, recently = noisy.shape[1], hidden_bias.shape[1], local.shape[1]
    one, zero = noisy.dtype.type(1), noisy.dtype.type(0)
    bits = np.empty((ROWS_ABREAST, length), noisy.dtype)  # centred
    hidden = np.empty((ROWS_ABREAST, units), noisy.dtype)
    recent = np.empty(ROWS_ABREAST, np.int64)
    for r in range(len(hidden_bias)):  # net by net: the weights of one fit into the cache, those of all may not
        rows = np.nonzero(net == r)[0]
        for first in range(0, len(rows), ROWS_ABREAST):
            abreast = rows[first : first + ROWS_ABREAST]
            for i, row in enumerate(abreast):
                recent[i] = 0
                for unit in range(units):
                    hidden[i, unit] = hidden_bias[r, unit] + class_hidden[r, latent[row], unit]
            for t in range(length):
                for i, row in enumerate(abreast):
                    logit = noisy[row, t] + bias[r, t] + class_bias[r, latent[row], t] + local[r, recent[i]]
                    for s in range(t):
                        logit += direct[r, t, s] * bits[i, s]
                    for unit in range(units):
                        logit += output[r, t, unit] * max(hidden[i, unit], zero)
                    noisy[row, t] = logit
                    bits[i, t] = (one if logit > 0 else zero) - center[r, t]
                    recent[i] = (2 * recent[i] + (logit > 0)) % recently
                    for unit in range(units):
                        hidden[i, unit] += input[r, t, unit] * bits[i, t]


@njit(nogil=True)
def _fill_last_bits(rows: Floats, numbers: int, found: Ints) -> None:
    """Fill `found` with what `last_bits` returns, of as many possible numbers."""
    for row in range(len(rows)):
        recent = 0
        for t in range(rows.shape[1]):
            found[row, t] = recent
            recent = (2 * recent + (rows[row, t] > 0)) % numbers


@njit(nogil=True, fastmath={"reassoc"})
def _hidden_term_forward(bits: Floats, start: Floats, effect: Floats, output: Floats, found: Floats) -> None:
    """Fill `found` with what `hidden_term` returns."""
    rows, length = bits.shape
    units, zero = start.shape[1], bits.dtype.type(0)
    hidden = np.empty(units, bits.dtype)
    for row in range(rows):
        for unit in range(units):
            hidden[unit] = start[row, unit]
        for t in range(length):
            logit = zero
            for unit in range(units):
                logit += output[t, unit] * max(hidden[unit], zero)
            found[row, t] = logit
            for unit in range(units):
                hidden[unit] += effect[t, unit] * bits[row, t]


@njit(nogil=True, fastmath={"reassoc"})
def _hidden_term_backward(
    grad_output: Floats,
    bits: Floats,
    start: Floats,
    effect: Floats,
    output: Floats,
    start_grad: Floats,
    effect_grad: Floats,
    output_grad: Floats,
) -> None:
    """Add to the last three arguments the gradients, given that of `_hidden_term_forward`'s result, (rows, length)."""
    rows, length = bits.shape
    units, zero = start.shape[1], bits.dtype.type(0)
    hidden = np.empty((length + 1, units), bits.dtype)
    for row in range(rows):
        for unit in range(units):
            hidden[0, unit] = start[row, unit]
        for t in range(length):
            for unit in range(units):
                hidden[t + 1, unit] = hidden[t, unit] + effect[t, unit] * bits[row, t]
        later = start_grad[row]  # the gradient with respect to the hidden units, from the bits at t and later
        for t in range(length - 1, -1, -1):
            for unit in range(units):
                effect_grad[t, unit] += later[unit] * bits[row, t]
                output_grad[t, unit] += grad_output[row, t] * max(hidden[t, unit], zero)
                later[unit] += grad_output[row, t] * output[t, unit] if hidden[t, unit] > 0 else zero
