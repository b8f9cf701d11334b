"""Runs one peer with its default settings: training rows in, synthetic rows out, both as CSV files of 0 and 1.

peers.py starts it with the Python of the peer's environment; it imports nothing from this project:
    python peer_worker.py ctgan|mostlyai TRAIN.csv SYNTHETIC.csv ROWS FOLDER
"""

import sys
from pathlib import Path

import pandas as pd


def ctgan(train: pd.DataFrame, rows: int, folder: Path) -> pd.DataFrame:
    from ctgan import CTGAN

    model = CTGAN()
    model.fit(train, discrete_columns=list(train.columns))
    return model.sample(rows)


def mostlyai(train: pd.DataFrame, rows: int, folder: Path) -> pd.DataFrame:
    from mostlyai import engine

    engine.split(tgt_data=train, workspace_dir=folder, model_type="TABULAR")
    engine.analyze(workspace_dir=folder)
    engine.encode(workspace_dir=folder)
    engine.train(workspace_dir=folder)
    engine.generate(workspace_dir=folder, sample_size=rows)
    return pd.read_parquet(folder / "SyntheticData")


if __name__ == "__main__":
    name, source, target, rows, folder = sys.argv[1:]
    made = {"ctgan": ctgan, "mostlyai": mostlyai}[name](pd.read_csv(source, dtype=str), int(rows), Path(folder))
    made.to_csv(target, index=False)
