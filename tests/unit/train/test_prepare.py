"""From options to rows: which codec and generator texts and bits get, and what is left out."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from train import device, kinds, row_cache
from train.codec import END, SPACE, PresenceCodec, TokensCodec
from train.config import Config, resolve
from train.errors import InputError
from train.packed import PackedRows
from train.prepare import Prepared, prepare, resolved


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    rows = [f"{row % 3},film number {row}{' and on' * (20 if row < 2 else 0)}" for row in range(100)]
    path.write_text("stars,review\n" + "\n".join(rows) + "\n")
    return path


def prepared(reviews: Path, **options: Any) -> tuple[Config, Prepared]:
    config = resolve({"data": str(reviews), "column": "review", **options})
    found = prepare(config)
    return resolved(config, found), found


@pytest.mark.parametrize(
    ("options", "codec", "generator"),
    [
        ({}, "tokens", "tokens"),
        ({"codec": "presence", "words": 3}, "presence", "nade"),
        ({"preset": "textbook", "words": 3}, "presence", "textbook"),
        ({"data": "toy", "column": None}, "bits", "nade"),
    ],
)
def test_auto_looks_at_the_data_and_the_generator(
    reviews: Path, options: dict[str, Any], codec: str, generator: str
) -> None:
    config, _ = prepared(reviews, **options)
    assert (config.codec, config.generator) == (codec, generator)


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("data", [{}, {"data": "toy", "column": None}], ids=["texts", "bits"])
def test_auto_takes_the_gpu_where_there_is_one(reviews: Path, data: dict[str, Any]) -> None:
    assert [prepared(reviews, device=each, **data)[0].device for each in ("auto", "cuda", "cpu")] == ["cuda"] * 2 + [
        "cpu"
    ]


def test_a_gpu_that_is_not_there_is_not_promised(reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert prepared(reviews)[0].device == "cpu"
    with pytest.raises(InputError, match="--device cuda: torch sees no GPU here"):
        prepared(reviews, device="cuda")


@pytest.mark.parametrize(
    ("cuda", "driver", "said", "told"),
    [
        ("13.0", True, "The NVIDIA driver on your system is too old (found version 12020).\nMore", "too old"),
        ("13.0", True, "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized", "802"),
        ("13.0", True, "No CUDA GPUs are available", ""),  # CUDA_VISIBLE_DEVICES is empty
        ("13.0", False, "Found no NVIDIA driver on your system. Please check", ""),
        (None, True, "", "built without CUDA"),
        (None, False, "", ""),
    ],
)
def test_a_gpu_that_torch_cannot_see_is_told(
    reviews: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cuda: str | None,
    driver: bool,
    said: str,
    told: str,
) -> None:
    def fail() -> None:
        raise RuntimeError(said)

    def unseen() -> bool:
        warnings.warn("CUDA initialization: …", stacklevel=1)  # as torch does; the tests take warnings for errors
        return False

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(device, "DRIVER", Path(__file__) if driver else Path("absent"))
    monkeypatch.setattr(torch.cuda, "is_available", unseen)
    monkeypatch.setattr(torch.cuda, "init", fail)
    with caplog.at_level("WARNING", logger="lookalike"):
        assert prepared(reviews)[0].device == "cpu"
    assert len(caplog.messages) == bool(told)
    with pytest.raises(InputError, match=f"--device cuda: .*{told or device.NO_GPU}.*; "):
        prepared(reviews, device="cuda")
    for message in caplog.messages:
        assert message.startswith("training uses the CPU: ")
        assert told in message


@pytest.mark.usefixtures("_gpu")
def test_a_gpu_that_fails_is_left_alone_and_told(
    reviews: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch, "ones", fail)
    with caplog.at_level("WARNING", logger="lookalike"):
        assert prepared(reviews)[0].device == "cpu"
    assert caplog.messages == ["training uses the CPU: CUDA error: no kernel image is available"]
    with pytest.raises(InputError, match="--device cuda: CUDA error: no kernel image is available; "):
        prepared(reviews, device="cuda")


@pytest.mark.usefixtures("_gpu")
def test_each_process_wants_a_gpu_of_its_own(reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    too_many = torch.cuda.device_count() + 1
    refused = f"there are {too_many} processes here, but torch sees {too_many - 1} GPUs"
    with pytest.raises(InputError, match=refused):
        prepared(reviews, device="cuda", processes=too_many)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(too_many))  # as torchrun sets it
    with pytest.raises(InputError, match=refused):
        prepared(reviews, device="cuda")


def test_texts_that_are_cut_are_not_learned_from(reviews: Path) -> None:
    _, found = prepared(reviews, length=5, validation=0.3)
    learned = torch.cat([found.train, found.validation])
    assert (learned == END).any(1).all()
    assert len(learned) <= 78
    assert len(found.parts.train) + len(found.parts.validation) == 80
    assert found.too_long == 80 - len(learned)
    assert found.left_out.startswith(
        f"{found.too_long} of the 80 training and validation texts have more than 4 tokens (--length)"
    )
    assert not prepared(reviews, length=500)[1].left_out


@pytest.mark.parametrize("data", [{"length": 500}, {"data": "toy", "column": None}], ids=["texts", "bits"])
def test_each_part_holds_the_rows_of_its_split(reviews: Path, data: dict[str, Any]) -> None:
    _, found = prepared(reviews, **data)
    rows = found.codec.encode(found.dataset.rows)
    parts = found.parts
    assert torch.equal(found.train, rows[parts.train])
    assert torch.equal(torch.as_tensor(found.rows), rows[parts.train])
    assert torch.equal(found.validation, rows[parts.validation])
    assert torch.equal(found.heldout, rows[parts.heldout])
    assert sorted([*parts.train, *parts.validation, *parts.heldout]) == list(range(len(rows)))


def own_words(found: Prepared, part: str) -> set[str]:
    """The unique word of each text of this part."""
    return {text.split()[1] for text in found.dataset.take(getattr(found.parts, part))}


def test_no_held_out_text_decides_about_the_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"film word{row}\n" for row in range(100)))
    found = prepare(resolve({"data": str(path), "codec": "tokens", "min_count": 1}))
    assert isinstance(found.codec, TokensCodec)
    known = {piece.removeprefix(SPACE) for piece in found.codec.pieces} - {"", "film"}
    assert known == own_words(found, "train") | own_words(found, "validation")
    found = prepare(resolve({"data": str(path), "codec": "presence", "words": len(found.parts.train) + 1}))
    assert isinstance(found.codec, PresenceCodec)
    assert set(found.codec.words) == {"film"} | own_words(found, "train")


def test_a_class_that_nothing_teaches_is_refused(reviews: Path) -> None:
    heldout = prepared(reviews)[1].parts.heldout[0]
    lines = reviews.read_text().splitlines()
    lines[heldout + 1] = "9" + lines[heldout + 1][1:]
    reviews.write_text("\n".join(lines))
    with pytest.raises(InputError, match="--label-column stars: no training text is of class 9"):
        prepared(reviews, label_column="stars")


def test_all_classes_that_nothing_teaches_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    rare = "".join(f"another film,rare{row}\n" for row in range(30))
    path.write_text("text,kind\n" + "a film,good\n" * 30 + rare)
    with pytest.raises(InputError, match=r"no training text is of class rare\d+, rare\d+, .* and \d+ more"):
        prepared(path, column="text", label_column="kind")


def test_a_class_of_texts_that_are_too_long_is_told_from_none(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text,kind\n" + "a film,good\n" * 60 + "a film that is far too long,endless\n" * 20)
    message = "all training texts of class endless have more than 3 tokens: raise --length "
    with pytest.raises(InputError, match=f"--label-column kind: {message}"):
        prepared(path, column="text", label_column="kind", length=4)


def test_what_judges_texts_is_bounded(reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.prepare.JUDGING_ROWS", 7)
    monkeypatch.setattr(kinds, "embedder", lambda: None)
    config, found = prepared(reviews, label_column="stars", baselines="none", text_hidden=4)
    assert found.validation_labels is not None
    assert [len(part) for part in (found.validation, found.validation_labels, found.heldout)] == [7, 7, 7]
    kind = kinds.of(config, found)
    generator = kind.warm_start().generator
    judged = kind.judge(generator, generator, 0.0).texts
    assert judged is not None
    assert found.codec.encode(judged.heldout).equal(found.heldout)


def test_labels_go_with_their_texts(reviews: Path) -> None:
    _, found = prepared(reviews, label_column="stars")
    assert isinstance(found.codec, TokensCodec)
    assert found.codec.labels == ("0", "1", "2")
    for codes, labels in ((found.train, found.train_labels), (found.validation, found.validation_labels)):
        assert labels is not None
        numbered = [
            (text.split()[-1], label)
            for text, label in zip(found.codec.decode(codes), labels.tolist(), strict=True)
            if text[-1].isdigit()
        ]
        assert numbered
        assert all(int(number) % 3 == label for number, label in numbered)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0.0}, "--validation 0: that leaves no validation text"),
        (
            {"length": 2},
            r"all training texts have more than 1 tokens: raise --length \(at most 512\), or cut the texts",
        ),
        ({"label_column": "stars", "codec": "presence"}, "--label-column: classes of texts need --codec tokens"),
        ({"codec": "presence", "generator": "tokens"}, "--generator tokens cannot be used with --codec presence"),
        ({"min_count": 1000}, "--min-count 1000: the texts hold no token that is frequent enough"),
    ],
)
def test_what_does_not_go_together_is_said(reviews: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(reviews, **{"length": 5, **options})


def test_rows_that_leave_nothing_to_learn_from_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n" + "0,1\n1,0\n" * 5)
    with pytest.raises(InputError, match=r"--holdout 0\.9 and --validation 0 leave only 1 of 10 rows to train on"):
        prepare(Config(data=str(file), holdout=0.9, validation=0.0))


def test_packed_rows_are_split_as_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).integers(0, 2, (100, 11)).astype(np.uint8))
    config = resolve({"data": str(tmp_path / "rows.npy")})
    plain = prepare(config)
    monkeypatch.setattr(row_cache, "LARGE", 100)
    packed = prepare(config)
    assert isinstance(packed.rows, PackedRows)
    assert torch.equal(packed.rows[torch.arange(len(packed.rows))], torch.as_tensor(plain.rows))
    for part in ("train", "validation", "heldout"):
        assert torch.equal(getattr(packed, part), getattr(plain, part)), part


def test_the_split_has_a_seed_of_its_own(tmp_path: Path) -> None:
    def heldout(**given: int) -> list[int]:
        return prepare(resolve({"data": "toy", **given})).parts.heldout.tolist()

    assert heldout(seed=1) == heldout() != heldout(split_seed=1)
