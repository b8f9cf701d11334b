"""What a job prints: what it starts from, its progress, and some rows at its end."""

import logging
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from train import NO_WORDS, SHOWN_SAFELY, distributed, metrics
from train.artifact import Artifact
from train.codec import Codec, TokensCodec, class_names
from train.config import Config, without_effect
from train.evidence import with_classes
from train.game import Tick
from train.kinds import EVALUATION_SEED
from train.prepare import JUDGING_ROWS, Prepared
from train.progress import LOG_SECONDS
from train.rundir import RunDirectory

log = logging.getLogger("lookalike")

PRINTED_ROWS, PRINTED_VALUES = 5, 64
LOW_TEMPERATURE = 0.5  # of the second sample of texts that is printed
BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
TEXTBOOK_PRINT_EPOCHS = 10  # the preset textbook prints its losses this often


def announce(run: RunDirectory, config: Config, prepared: Prepared, device_name: str) -> None:
    """Log what a job works on and where."""
    parts, dataset = prepared.parts, prepared.dataset
    log.info(
        "%s: %s, codec %s, %d values a row; %s to train on, %s to validate, %s to judge",
        dataset.name, dataset.extent, config.codec, len(prepared.codec.columns),
        f"{len(parts.train):,}", f"{min(len(parts.validation), JUDGING_ROWS):,}", f"{len(prepared.heldout):,}",
    )  # fmt: skip
    warn(config, prepared)
    log.info("run %s on %s", run.path, device_name)
    if config.device == "cuda" and torch.cuda.device_count() > distributed.world_size():
        used = f"{distributed.world_size()} of {torch.cuda.device_count()} GPUs"
        log.info("using %s; --processes trains on more of them", used)


def warn(config: Config, prepared: Prepared) -> None:
    """Log what of the options has no effect, and what of the data is not used or says little."""
    if useless := without_effect(config):
        log.warning("no effect with codec %s and generator %s: %s", config.codec, config.generator, ", ".join(useless))
    for line in prepared.dataset.skipped:
        log.warning("skipped: %s", line)
    if prepared.left_out:
        log.warning("%s", prepared.left_out)
    known = {row.tobytes() for part in (prepared.train, prepared.validation) for row in part.numpy()}
    repeated = sum(row.tobytes() in known for row in prepared.heldout.numpy()) / len(prepared.heldout)
    if repeated > metrics.NOTABLE_REPEATS:
        log.warning("%s", metrics.repeated_rows(repeated, "texts" if config.codec == "tokens" else "rows"))


def bar(title: str) -> "tqdm[Any]":
    """A progress bar in percent, if there is a terminal."""
    return tqdm(total=100.0, desc=title, bar_format=BAR, disable=None, leave=False)


class GameBar:
    """The progress of the game: a bar in percent, or a log line now and then without a terminal."""

    def __init__(self, config: Config, game_share: float, rows: int) -> None:
        """Begin to show the bar.

        Args:
            game_share: the share of the minutes that has passed when the game ends.
            rows: training rows in an epoch.
        """
        self.config, self.game_share, self.rows = config, game_share, rows
        self.printed_at = 0.0
        self.bar = bar("training")

    def __enter__(self) -> "GameBar":
        return self

    def __exit__(self, *problem: object) -> None:
        self.bar.close()

    def show(self, tick: Tick, scores: dict[str, float]) -> None:
        """Move the bar; without a terminal, log a line now and then. The preset textbook has log lines of its own."""
        shown = {"G": tick.losses["generator_loss"], "D": tick.losses["discriminator_loss"]}
        shown |= {"validation": scores["score"]} if scores else {}
        self.bar.set_postfix(
            {**{name: f"{value:.3f}" for name, value in shown.items()}, "epoch": f"{tick.epoch:.0f}"}, refresh=False
        )
        percent = self._percent(tick)
        self.bar.update(percent - self.bar.n)
        if self.config.preset == "textbook":
            self._show_textbook(tick)
        elif self.bar.disable and time.monotonic() - self.printed_at > LOG_SECONDS:
            self.printed_at = time.monotonic()
            line = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
            log.info(
                "%3.0f %%  epoch %.0f  %s  %s sequences/s",
                percent,
                tick.epoch,
                line,
                f"{tick.sequences_per_second:,.0f}",
            )

    def _percent(self, tick: Tick) -> float:
        """How much of the epochs or the minutes is used, whichever is more; capped, since the last tick ends late."""
        shares = []
        if self.config.epochs is not None:
            shares.append(tick.epoch / self.config.epochs)
        if self.config.max_minutes is not None:
            shares.append(tick.seconds / (60 * self.config.max_minutes * self.game_share))
        return min(100.0, 100 * max(shares))

    def _show_textbook(self, tick: Tick) -> None:
        epoch = round(tick.epoch)
        if epoch % TEXTBOOK_PRINT_EPOCHS == 0 and tick.seen == epoch * self.rows:
            losses = tick.last_losses
            log.info(
                "Epoch %d/%d:\t Generator loss: %s\t Discriminator loss: %s",
                epoch, self.config.epochs, losses["generator_loss"], losses["discriminator_loss"],
            )  # fmt: skip


def print_rows(shipped: Artifact, prepared: Prepared) -> None:
    """Print some real rows, and as many from the shipped generator."""
    codec = shipped.codec
    generated = _sampled(shipped)
    if isinstance(codec, TokensCodec):
        real = prepared.dataset.part(prepared.parts.heldout[:PRINTED_ROWS])
        texts = [" ".join(text.split()) for text in real.rows]  # decoded, they would lack unknown words
        plain = _sampled(shipped, temperature=LOW_TEMPERATURE)
        shown = {
            "real texts": with_classes(texts, real.classes),
            "generated texts": generated,
            f"at temperature {LOW_TEMPERATURE}, plainer and less varied": plain,
        }
    else:
        shown = {"real rows": _lines(codec, prepared.heldout[:PRINTED_ROWS]), "generated rows, rounded": generated}
    for title, lines in shown.items():
        log.info("\n%s:\n%s", title, "\n".join(f"  {line.translate(SHOWN_SAFELY)}" for line in lines))


def _sampled(shipped: Artifact, **chosen: float) -> list[str]:
    rows = shipped.sample_labelled(PRINTED_ROWS, EVALUATION_SEED, **chosen)
    return with_classes(_lines(shipped.codec, rows.codes), class_names(shipped.codec, rows.labels))


def _lines(codec: Codec, codes: Tensor) -> list[str]:
    """Rows as printable lines: their text, or their first values if they have none."""
    more = " …" * (codes.shape[1] > PRINTED_VALUES)
    if texts := codec.decode(codes):
        return [text or NO_WORDS for text in texts]
    return [" ".join(map(str, row[:PRINTED_VALUES])) + more for row in codes.tolist()]
