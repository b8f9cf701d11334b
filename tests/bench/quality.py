"""Quality bench: the GAN, every baseline and the floor on several data sets; mean and spread over the seeds.

Every cell comes from complete training jobs as `python -m train fit` runs them, with the same options for all sets
except the codec of movie-reviews; half of the rows are held out. Prints the tables. With --write it only puts the last
measured tables into train/RESULTS.md, and a summary into the README.
"""

from pathlib import Path

import click

from tests.bench import tables

SETS = ("digits", "movie-reviews", "chain", "topics")
ALL_SETS = (*SETS, "survey", "week", "wide", "long")  # rows of the last two have 1,000 bits and more, so they are slow


@click.command()
@click.option("--sets", multiple=True, type=click.Choice(ALL_SETS), default=SETS, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=3.0, show_default=True)
@click.option("--baselines", type=click.Choice(["fast", "all"]), default="all", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"), show_default=True)
@click.option("--write", is_flag=True, help="Only put what was measured last, set by set, into train/RESULTS.md.")
def main(sets: tuple[str, ...], seeds: int, minutes: float, baselines: str, out: Path, write: bool) -> None:
    """Measure and print the table."""
    if write:
        tables.write("quality", [_kept(out, name) for name in ALL_SETS])
        return
    for name in sets:
        codec = {"codec": "presence"} if name == "movie-reviews" else {}  # not "auto": config.json has it resolved
        given = {"data": name, "baselines": baselines, **codec}
        tables.measure(_kept(out, name), name, given, seeds=seeds, minutes=minutes)


def _kept(out: Path, name: str) -> Path:
    return out / f"quality-{name}.json"


if __name__ == "__main__":
    main()
