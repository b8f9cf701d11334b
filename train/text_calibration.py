"""What is put right in a fitted generator of texts: how sharp the net is, how often each token comes, where texts end.

The net is sharpened, because likelihood spreads it over too many tokens, and draws have too few of the phrases that
real texts share (Braverman et al. 2020, "Calibration, entropy rates, and memory in language models"). Sharpening makes
common tokens commoner still, so the net's output is then shifted over some rounds until draws contain each token about
as often as the training rows do, and end where those end.

Once validation rows have nothing more to decide, `recount` includes them in the counts.
"""

import torch
from torch import Tensor

from train import cpus
from train.codec import PADDING, UNKNOWN
from train.generator import Map
from train.language_model import LanguageModel
from train.progress import Progress
from train.text_counts import count_ngrams
from train.text_draws import chances, draw_together
from train.text_generator import TokenGenerator

TEMPERATURE = 0.8  # the net's logits are divided by it after training
ROUNDS, RECOUNT_ROUNDS = 12, 8
ROWS = 4000  # drawn for a round
TOKENS = 200_000  # fewer rows of long texts, which take longer to draw
# More draws than this for each given row, beyond the fewest, tell little: the given rows are the smaller sample then.
DRAWS_A_ROW, FEWEST_ROWS = 10, 500
SEED = 777_777  # of the first round's draws; the game's passes use --seed and the numbers after it
PSEUDOCOUNT = 10.0  # dampens corrections of tokens drawn less often, which are mostly chance
ENDING_PSEUDOCOUNT = 30.0  # the same for the rows that end at a position


@torch.no_grad()
def sharpen(model: LanguageModel) -> None:
    """Divide the net's logits by `TEMPERATURE`, without changing what it reads and what the gate sees."""
    label = () if model.label_output is None else model.label_output.parameters()
    for parameter in (*model.project.parameters(), model.bias, *label):
        parameter.div_(TEMPERATURE)


@torch.no_grad()
def calibrate(generator: TokenGenerator, codes: Tensor, seed: int, rate: float = 1.0, each: Map = map) -> None:
    """Shift the net's output towards draws that contain each token as often as the given rows, and end where they do.

    With several candidates, draws are weighted by their chance of being chosen. Rare tokens are counted as one. The
    tokens that end a row are shifted by position instead, so that of the rows that reach a position, the same share
    begins to end there. Several rounds are needed, because the n-grams' share of the draws is not shifted, and because
    a shifted token also changes what follows it.

    Args:
        codes: token ids, (rows, length).
        seed: of the draws.
        rate: the share of the estimated shift that is applied.
        each: how passes are mapped to draws; in training one after the other, because the minutes that a baseline gets
            are spent by one thread, too.
    """
    model, k = generator.model, generator.candidates
    affordable = min(ROWS, -(-TOKENS // generator.length))
    telling = max(FEWEST_ROWS, DRAWS_A_ROW * len(codes))
    drawn = draw_together(generator, max(k, min(affordable, telling)), seed, each).to(codes.device)
    chosen = chances(generator, drawn, seed)
    shares = None if chosen is None else chosen.to(codes.device)
    wanted, found = _counts(model, codes), _counts(model, drawn.codes, shares)
    wanted *= found.sum() / wanted.sum().clamp(min=1)  # in one-word texts all tokens may be ones that end a row
    model.bias.add_(rate * ((wanted + PSEUDOCOUNT) / (found + PSEUDOCOUNT)).log())
    (wanted, lasting), (found, going_on) = _ends(model, codes), _ends(model, drawn.codes, shares)
    wanted *= going_on / lasting.clamp(min=1)
    model.ending_shift.add_(rate * ((wanted + ENDING_PSEUDOCOUNT) / (found + ENDING_PSEUDOCOUNT)).log())


def recount(generator: TokenGenerator, codes: Tensor, *, chosen: bool = True) -> None:
    """Replace the n-grams by those of these rows, and calibrate to these rows; the net's other weights stay.

    Args:
        codes: token ids, (rows, length), on the generator's device.
        chosen: calibrate what is chosen among candidates, else single draws.
    """
    model = generator.model
    model.gru.flatten_parameters()  # cuDNN wants contiguous weights, and copying has scattered them
    if model.rare is None:  # the model cannot draw rare tokens
        codes = codes.masked_fill(codes >= model.head, UNKNOWN)
    if model.ngrams is not None:
        counted = count_ngrams(codes.cpu(), generator.vocabulary, model.head, model.ending.cpu())
        ngrams, rare = (each.to(codes.device) for each in counted)
        model.ngrams, generator.grams = ngrams, len(ngrams.grams)
        if model.rare is not None:
            model.rare, generator.rare_grams = rare, len(rare.grams)
    drawing = generator if chosen else generator.with_options(candidates=1)
    each: Map = map if codes.is_cuda else cpus.in_threads
    work = "calibrating" if chosen else "calibrating the warm start"
    with Progress(work, RECOUNT_ROUNDS, unit="round") as progress:
        for done in range(RECOUNT_ROUNDS):
            seed = SEED + ROUNDS + done
            calibrate(drawing, codes, seed, rate=1 / max(1, done - 1), each=each)
            progress.add(1)


def _counts(model: LanguageModel, rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """How often each token occurs in rows of token ids, UNKNOWN standing for all rare ones: float64 (head,).

    Tokens that end a row are not counted.

    Args:
        weights: how much each row counts, (rows,); None for 1.
    """
    known = (rows != PADDING) & (rows != UNKNOWN)
    each = None if weights is None else weights[:, None].expand_as(rows)[known]
    counts = model.common(rows[known].long()).bincount(each, minlength=len(model.bias))
    return counts.double().masked_fill(model.ending, 0)


def _ends(model: LanguageModel, rows: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How many rows of token ids begin to end at each position, and how many reach it: both float64 (length,).

    A row begins to end after its last token that does not end rows. The weights are as in `_counts`.
    """
    going = (rows != PADDING) & ~model.ending[model.common(rows.long())]
    first = (going * torch.arange(1, rows.shape[1] + 1, device=rows.device)).amax(1)
    ends = first.bincount(weights, minlength=rows.shape[1] + 1).double()
    return ends[:-1], ends.flip(0).cumsum(0).flip(0)[:-1]
