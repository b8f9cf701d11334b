"""The diagnosis: what the losses and scores say about how training went, in a sentence or two."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

BALANCE = {"textbook": 2 * math.log(2)}  # the discriminator's loss when it cannot tell; log 2 for other generators
TOO_STRONG = {
    "nade": "so the generator hardly learns from it any more. Raise --penalty, or lower --width.",
    "textbook": "so the generator hardly learns from it any more. The default preset holds it back with penalties.",
    "tokens": "so it has memorised the training texts, or the generator's texts are far from them. Validation texts "
    "decide how much weight its scores get.",
}
MORE_VARIETY = {
    "nade": "Raise --penalty or --flip.",
    "textbook": "Its discriminator sees no more than column means; the default preset's sees whole rows.",
    "tokens": "Sample at a higher temperature.",
}
MORE_DATA = "Use more data."
LESS_COPYING = {"nade": "Raise --flip, or use more data."}
COLLAPSED = 0.8  # distinct rows over those among real rows, below which rows count as collapsed


def diagnose(
    history: list[dict[str, float]], generator: str = "nade", shipped: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """What the loss curves say, in a sentence or two. Empty if nothing was trained.

    Compares the losses of the last tenth of training with the balance of the game, where the discriminator cannot tell
    (a loss of log 2, or 2 log 2 for the textbook's sum), and looks at the scores of what ships and at the validation
    scores of the ticks.

    Args:
        history: the lines of stats.jsonl.
        generator: which one was trained: "nade", "textbook" or "tokens".
        shipped: the scores of what ships.
    """
    if not history:
        return ""
    tail = history[-max(1, len(history) // 10) :]
    discriminator = float(np.mean([tick["discriminator_loss"] for tick in tail]))
    balance = BALANCE.get(generator, math.log(2))
    scores = [tick["validation_score"] for tick in history if "validation_score" in tick]
    last = history[-1]
    if discriminator < 0.1 * balance:
        return (
            f"Discriminator too strong: its loss fell to {discriminator:.3f} (balance: {balance:.2f}), "
            f"{TOO_STRONG[generator]}"
        )
    if shipped.get("constant_columns") or (shipped.get("distinct_ratio_high") or 1.0) < COLLAPSED:
        variety = f"what ships has {shipped.get('distinct_ratio') or 0.0:.0%} of the variety of real data"
        return f"Collapsed: {variety}{_constant(shipped, generator)}. {MORE_VARIETY[generator]}"
    if last.get("validation_distinct_ratio", 1.0) < COLLAPSED:
        return (
            f"Collapsing: at the last tick, rows repeated one another, with {last['validation_distinct_ratio']:.0%} as "
            f"many distinct rows as among real ones. {MORE_VARIETY[generator]}"
        )
    if last.get("validation_copy_excess_low", 0.0) > 0:
        return (
            f"Memorising: at the last tick, {last['validation_copy_excess']:.1%} more of the rows copied training rows "
            "than validation rows, which is more than chance explains. "
            f"{LESS_COPYING.get(generator, MORE_DATA)}"
        )
    if scores and scores[-1] > 1.5 * min(scores) + 0.05:
        return (
            f"Past its best: the validation score rose (lower is better) from {min(scores):.2f} to {scores[-1]:.2f} "
            "as training went on."
        )
    fooling = float(np.mean([tick["generator_loss"] for tick in tail]))
    return (
        f"Balanced: the losses ended at {fooling:.2f} (generator) and {discriminator:.2f} (discriminator) without "
        "either side winning. That says the game goes on, not how good the rows are: for that, see the table."
    )


def _constant(shipped: Mapping[str, Any], generator: str) -> str:
    number = shipped.get("constant_columns", 0)
    if not number:
        return ""
    what = (
        "common words are in none of its texts, or in all" if generator == "tokens" else "of its columns never change"
    )
    return f", and {number} {what}, unlike in real ones"
