"""Rows from any tool, compared with real ones: what `python -m train evaluate` runs."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train import atomic, data, evidence, figures, gate, metrics, ratios, readers, report, text_metrics, writers
from train.codec import BitsCodec, Codec, PresenceCodec, words_of
from train.columns import some_names
from train.dataset import Dataset, Values, check_classes, split
from train.embeddings import embedder
from train.errors import InputError
from train.evidence import SYNTHETIC, Evidence, Strings
from train.gate import Verdict

log = logging.getLogger("lookalike")

HALVES_SEED = 1  # not the judges' 0: of a verbatim copy of the real rows, they would sample exactly the judging half
NOT_HELD_OUT = "--train holds the same rows as --real: nothing was held out, so floors and ratios mean little"


def evaluate(
    real: Path, synthetic: Path, train: Path | None, *, limits: str, out: Path | None, **options: Any
) -> tuple[Evidence, Verdict]:
    """Judge a file of synthetic rows, and write a report where one is asked for.

    Args:
        train: the rows that the tool learned from. Without them, one half of the real rows takes their place: floor
            and copies are then measured as if the tool had learned from that half, and near copies are left out.
        limits: the quality gate, "default", "none" or a file.
        out: where the report is written, if anywhere.
        options: of `_judged_files`.

    Raises:
        InputError: a file cannot be read or written, or they do not hold the same kind of rows.
    """
    gate.read(limits)  # judging takes long, so mistakes are refused before it
    if out is not None:
        writers.check_place(out)
        if out.suffix.lower() != ".html":
            raise InputError(f"--out {out}: the report is a web page; its name must end in .html")
    torch.set_num_threads(1)  # as in a job: the judges share the CPUs by `cpus.in_threads`
    found, shown_by = _judged_files(real, synthetic, train, **options)
    verdict = _verdict(gate.read(limits, texts=found.texts is not None), found)
    if out is not None:
        provenance = {"real": str(real), "synthetic": str(synthetic), "train": str(train or "half of the real rows")}
        page = report.Page(
            title=f"{synthetic.name} against {real.name}",
            verdict=verdict,
            history=[],
            decode=shown_by.decode,
            provenance=provenance,
            train_known=train is not None,
        )
        atomic.write_text(out, report.render(found, page, figures.draw(found, [])))
    return found, verdict


def _verdict(limits: list[gate.Limit], found: Evidence) -> Verdict:
    verdict = gate.check(limits, found.scores[SYNTHETIC])
    if not verdict.passed:
        return verdict
    if found.texts is None:
        simple = gate.independent_columns(_independent_columns(found))
    else:
        simple = gate.shuffled_texts(_shuffled_texts(found.texts))
    return gate.check(limits, found.scores[SYNTHETIC], simple)


def _independent_columns(found: Evidence) -> dict[str, Any]:
    """The scores of 0/1 rows with independent columns, each as often 1 as in the training rows."""
    judged = found.scores[SYNTHETIC]  # no more rows than were judged: with few, these scores are as uncertain
    length = len(found.columns)
    shape = min(judged["synthetic_rows"], ratios.rows_to_judge(judged["n"], length)), length
    rows = np.random.default_rng(0).random(shape) < found.train.mean(axis=0)
    return metrics.compare(rows.astype(np.uint8), found.heldout, found.train)


def _shuffled_texts(texts: Strings) -> dict[str, Any]:
    """The scores of training texts with their words in random order, at most as many as there are synthetic texts."""
    rng = np.random.default_rng(0)
    real, learned = ([words_of(text) for text in part] for part in (texts.heldout, texts.train))
    chosen = rng.permutation(len(learned))[: len(texts.contenders[SYNTHETIC])]  # files may be sorted, by class say
    made = [[str(word) for word in rng.permutation(learned[row])] for row in chosen]
    return text_metrics.compare_text(made, real, learned)


def _judged_files(
    real: Path,
    synthetic: Path,
    train: Path | None,
    *,
    column: str | None,
    synthetic_column: str | None = None,
    label_column: str | None = None,
    codec: str,
    words: int,
    max_bad_rows: int,
) -> tuple[Evidence, Codec]:
    """Evidence for files of any origin, and the codec by which rows are shown.

    Columns are matched by name, or by position where a file has no names. Texts are compared word by word, or, with the
    codec "presence", by which of the most informative words they use.

    Args:
        train: as for `evaluate`.
        column: the column that holds the text.
        synthetic_column: the same in the synthetic file, where the name may be another.
        label_column: the column that holds the texts' classes, or that a model would predict from the others.
        max_bad_rows: how many rows of a file may be skipped; the log names them, and a warning among the scores the
            first of them.

    Raises:
        InputError: a file cannot be read, or they do not hold the same kind of rows.
    """
    log.info("reading %s", " and ".join(str(path) for path in (real, synthetic, train) if path is not None))
    given, made, learned = _loaded(
        real,
        synthetic,
        train,
        column=column,
        synthetic_column=synthetic_column,
        label_column=label_column,
        codec=codec,
        max_bad_rows=max_bad_rows,
    )
    heldout, seen = (given, learned) if learned is not None else _halves(given)
    log.info("judging %s synthetic rows by %s real ones", f"{len(made.rows):,}", f"{len(heldout):,}")
    if isinstance(made, Values):
        found, shown_by = _of_bits(made, heldout, seen)
    elif codec == "presence":
        found, shown_by = _of_presence(made, heldout, seen, data.fit_presence(given, given.rows, words))
    else:
        found, shown_by = _of_texts(made, heldout, seen)
    _warn(found.scores[SYNTHETIC], given, made, learned)
    return found, shown_by


def _loaded(
    real: Path,
    synthetic: Path,
    train: Path | None,
    *,
    column: str | None,
    synthetic_column: str | None,
    label_column: str | None,
    codec: str,
    max_bad_rows: int,
) -> tuple[Dataset, Dataset | Values, Dataset | None]:
    """The real, the synthetic and the training rows; if the real rows are 0/1, the synthetic ones may be unrounded."""
    load = partial(data.load, codec=codec, max_bad_rows=max_bad_rows)
    made: Dataset | Values
    try:
        given = load(str(real), column=column, label_column=label_column)
        check_classes(given, label_column)
        classes = None if given.texts is None else label_column
        learned = None if train is None else load(str(train), column=column, label_column=classes)
        if given.texts is None and synthetic_column is not None:
            raise InputError(f"--synthetic-column {synthetic_column}: the real rows are 0/1, not texts")
        if given.texts is None:
            made = data.load_values(synthetic, max_bad_rows)
        else:
            theirs = synthetic_column or _text_column(column, synthetic)
            # Without its empty texts, a generator would seem better than it is.
            made = load(str(synthetic), column=theirs, label_column=classes, keep_empty=True)
    except InputError as problem:
        files = {"--real": real, "--synthetic": synthetic, "--train": train}
        raise InputError(_with_option(str(problem), files)) from problem
    for option, other in (("--train", learned), ("--synthetic", made)):
        if isinstance(other, Dataset) and (other.texts is None) != (given.texts is None):
            raise InputError(f"{option} {other.source}: one file holds text, the other rows of 0 and 1")
    return given, made, learned


def _warn(scores: dict[str, Any], given: Dataset, made: Dataset | Values, learned: Dataset | None) -> None:
    """Add the warnings that concern the files to those of the scores."""
    for each in (given, learned, made):
        if each is not None and each.skipped:
            for line in each.skipped:
                log.warning("skipped: %s", line)
            first = readers.first_of(each.skipped)
            scores["warnings"].append(f"{len(each.skipped):,} unusable rows of {each.source} were skipped: {first}")
    if isinstance(made, Dataset) and (empty := made.rows.count("")):
        scores["warnings"].append(
            f"{empty:,} of the {len(made):,} texts of {made.source} are empty: judged like others"
        )
    if learned is None:
        _leave_out_near_copies(scores)
    elif learned.fingerprint() == given.fingerprint():
        scores["warnings"].insert(0, NOT_HELD_OUT)


def _leave_out_near_copies(scores: dict[str, Any]) -> None:
    """Drop near copies: a tool that saw both halves of the real rows is equally near to both, whatever it copied."""
    measured = [scores.pop(f"near_copy_share{end}", None) for end in ("", "_low", "_high")]
    near = "near copies are not measured, and " if any(each is not None for each in measured) else ""
    scores["warnings"].append(f"without --train, {near}only about half of the exact copies are counted")


def _text_column(column: str | None, path: Path) -> str | None:
    """`column`, or where a file lacks it the name that we write, or None: another tool may use any name."""
    if column is None:
        return None
    names = data.columns_of(path)
    return next((name for name in (column, readers.TEXT_COLUMN) if name in names), None)


def _with_option(message: str, files: Mapping[str, Path | None]) -> str:
    """A message of the readers, which always say --data, with the option that named the file instead."""
    for option, path in files.items():
        if message.startswith((f"--data {path}:", f"--data {path}/")):
            if option == "--synthetic":
                message = message.replace("--column", "--synthetic-column")
            return option + message.removeprefix("--data")
    return message


def _places(given: Dataset, names: Sequence[str], source: str) -> list[int]:
    """Where another file has the columns of the given one: by name, or in the same order if one has no names."""
    lacking = [name for name in given.columns if name not in names]
    others = [name for name in names if name not in given.columns]
    if not lacking and not others:
        return [names.index(name) for name in given.columns]
    nameless = any(tuple(each) == readers.column_names(len(each)) for each in (given.columns, names))
    if nameless and len(names) == len(given.columns):
        return list(range(len(names)))
    facts = [f"{len(names)} columns where {given.source} has {len(given.columns)}"]
    if len(names) == len(given.columns):
        facts = [f"different columns from {given.source}"]
    if lacking and not nameless:
        facts.append(f"it lacks {some_names(lacking)}")
    if others and not nameless:
        facts.append(f"it also has {some_names(others)}")
    raise InputError(f"{source}: {'; '.join(facts)}")


def _of_bits(made: Values, heldout: Dataset, seen: Dataset) -> tuple[Evidence, Codec]:
    synthetic = made.rows[:, _places(heldout, made.columns, f"--synthetic {made.source}")]
    learned = np.asarray(seen.rows)[:, _places(heldout, seen.columns, f"--train {seen.source}")]
    real, columns = np.asarray(heldout.rows), list(heldout.columns)
    found = evidence.judge({SYNTHETIC: synthetic}, real, learned, columns=columns, label=heldout.label)
    return found, BitsCodec(columns)


def _of_texts(made: Dataset, heldout: Dataset, seen: Dataset) -> tuple[Evidence, Codec]:
    """Evidence by a comparison of texts word by word."""
    synthetic, *real = (list(each.rows) for each in (made, heldout, seen))
    labels = evidence.labels_of({SYNTHETIC: made.classes}, heldout, seen)
    found = evidence.judge_texts({SYNTHETIC: synthetic}, *real, labels=labels, embed=embedder())
    return found, PresenceCodec(found.columns)


def _of_presence(made: Dataset, heldout: Dataset, seen: Dataset, codec: PresenceCodec) -> tuple[Evidence, Codec]:
    """Evidence by the presence of the codec's words."""
    synthetic, *real = (codec.encode(each.rows).numpy() for each in (made, heldout, seen))
    return evidence.judge({SYNTHETIC: synthetic}, *real, columns=codec.columns), codec


def _halves(given: Dataset) -> tuple[Dataset, Dataset]:
    """The half of the real rows that judges, and the half that stands in for the training rows."""
    parts = split(len(given), holdout=0.5, validation=0.0, seed=HALVES_SEED)
    return given.part(parts.heldout), given.part(parts.train)
