"""The trigram baseline: what it counts is what it draws."""

import math

import torch

from train.codec import END, UNKNOWN
from train.trigram import DISCOUNT, Trigram

A, B, C = 3, 4, 5


def test_tokens_come_with_their_interpolated_probability() -> None:
    codes = torch.tensor([[A, B, END, 0], [A, C, END, 0], [A, C, END, 0], [B, B, END, 0]])
    drawn = Trigram(codes).sample(20_000, seed=0)
    follows = drawn[drawn[:, 0] == A][:, 1]
    # After A at the start: B once and C twice; the discounted rest goes by way of "after A", which has seen the same,
    # to the twelve counts of four tokens without context, three of them of B.
    rest = 2 * DISCOUNT / 3
    unigram = (3 - DISCOUNT) / (12 - 4 * DISCOUNT)
    expected = (1 - DISCOUNT) / 3 * (1 + rest) + rest**2 * unigram
    error = math.sqrt(expected * (1 - expected) / len(follows))
    assert abs((follows == B).double().mean() - expected) < 4 * error


def test_rows_end_once_and_are_padded() -> None:
    drawn = Trigram(torch.tensor([[A, B, END, 0], [B, END, 0, 0]])).sample(500, seed=1)
    for row in drawn.tolist():
        end = row.index(END) if END in row else len(row)
        assert not any(row[end + 1 :])
        assert 0 not in row[:end]


def test_unknown_tokens_are_never_drawn_and_seeds_repeat() -> None:
    model = Trigram(torch.tensor([[A, UNKNOWN, B, END], [A, B, END, 0]]))
    drawn = model.sample(500, seed=2)
    assert UNKNOWN not in drawn
    assert torch.equal(drawn, model.sample(500, seed=2))
