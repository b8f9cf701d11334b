"""The model archive: whole, reproducible, self-contained, and refused when anything in it was changed."""

import ast
import errno
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

import train
from serve import archive
from serve.errors import ArchiveError

# What a TorchServe worker does, importing only from the unpacked archive and the installed packages.
ALONE = """
import json, sys
sys.path.insert(0, "")
from handler import LookalikeHandler
class Context:
    system_properties = {"model_dir": "."}
    model_yaml_config = metrics = None
    def get_all_request_header(self, index): return {"Content-Type": "application/json"}
    def set_response_content_type(self, index, kind): assert kind == "application/json"
served = LookalikeHandler()
served.initialize(Context())
body, = served.handle([{"body": bytearray(b'{"n": 2, "seed": 1}')}], Context())
packages = sorted({name.split(".")[0] for name in sys.modules})
ours = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in ("handler", "serve", "train")]
print(json.dumps({"body": json.loads(body), "ours": ours, "packages": packages}))
"""


@pytest.fixture(scope="module")
def mar(artifact_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive.build(artifact_directory, tmp_path_factory.mktemp("mar") / "lookalike.mar")


def repacked(mar: Path, target: Path, **changes: bytes | None) -> Path:
    """Copy an archive with the content of some files changed, or (None) left out; returns the copy's path."""
    with zipfile.ZipFile(mar) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = changes.get(Path(name).stem, source.read(name))
            if content is not None:
                copy.writestr(name, content)
    return target


def read_manifest(mar: Path) -> dict[str, Any]:
    with zipfile.ZipFile(mar) as contents:
        manifest: dict[str, Any] = json.loads(contents.read(archive.MANIFEST))
    return manifest


def test_the_same_artifact_gives_the_same_bytes(mar: Path, artifact_directory: Path, tmp_path: Path) -> None:
    again = archive.build(artifact_directory, tmp_path / "new" / "folder" / "lookalike.mar")
    assert again.read_bytes() == mar.read_bytes()
    assert [path.name for path in again.parent.iterdir()] == ["lookalike.mar"]


def test_an_interrupted_build_leaves_nothing(
    artifact_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "writestr", interrupted)
    with pytest.raises(KeyboardInterrupt):
        archive.build(artifact_directory, tmp_path / "lookalike.mar")
    assert not list(tmp_path.iterdir())


def test_a_read_only_folder_is_told_by_the_name_of_the_archive(
    artifact_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(zipfile, "ZipFile", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(ArchiveError, match=r"/lookalike\.mar: Read-only file system"):
        archive.build(artifact_directory, tmp_path / "lookalike.mar")


def test_it_runs_alone(mar: Path, artifact_directory: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(mar) as contents:
        contents.extractall(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-I", "-c", ALONE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    golden = json.loads((artifact_directory / "card.json").read_text())["golden"][1]
    assert found["body"]["sequences"] == golden["rows"][:2]
    assert all(Path(tmp_path, file).resolve().is_relative_to(tmp_path) for file in found["ours"]), found["ours"]
    assert not {"mlflow", "click", "sklearn", "pandas", "requests"} & set(found["packages"])


def test_the_manifest_is_the_one_that_torch_model_archiver_writes(mar: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "model_archiver.model_packaging",
        "--model-name",
        "lookalike",
        "--version",
        "1",
        "--handler",
        str(archive.HERE / "handler.py"),
        "--config-file",
        str(archive.HERE / archive.CONFIG),
        "--export-path",
        str(tmp_path),
    ]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"TMPDIR": str(tmp_path)}, timeout=60)
    ours, theirs = (read_manifest(path) for path in (mar, tmp_path / "lookalike.mar"))
    assert ours["model"] == theirs["model"]
    assert ours["runtime"] == theirs["runtime"]
    assert ours["archiverVersion"] == theirs["archiverVersion"]
    assert ours.keys() == theirs.keys()


def test_verify_returns_the_card(mar: Path) -> None:
    assert archive.verify(mar)["run_id"] == "abc"
    assert archive.read_card(mar)["version"] == "1"


def test_what_is_served_is_what_was_proved(mar: Path, tmp_path: Path) -> None:
    """TorchServe unpacks an archive as a stream, so also a file that its table of contents lacks."""
    hidden, proved = tmp_path / "hidden.mar", tmp_path / "proved.mar"
    with zipfile.ZipFile(mar) as source, zipfile.ZipFile(hidden, "w") as made:
        for name in source.namelist():
            made.writestr(name, source.read(name))
        made.writestr("other.py", b"never checked")
        made.filelist.pop()
    assert b"never checked" in hidden.read_bytes()
    archive.verify(hidden, proved)
    assert proved.read_bytes() == mar.read_bytes()


def test_the_proof_runs_without_the_secrets_of_the_shell(mar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments: list[dict[str, str]] = []
    run = subprocess.run

    def spy(*arguments: Any, **options: Any) -> Any:
        environments.append(options["env"])
        return run(*arguments, **options)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(subprocess, "run", spy)
    archive.verify(mar)
    assert [environment.keys() - set(archive.KEPT_ENVIRONMENT) for environment in environments] == [set()]


@pytest.mark.parametrize("length", [0, 100, -1, -300])
def test_a_truncated_archive_is_refused(mar: Path, tmp_path: Path, length: int) -> None:
    broken = tmp_path / "broken.mar"
    broken.write_bytes(mar.read_bytes()[:length])
    with pytest.raises(ArchiveError, match=r"broken\.mar"):
        archive.verify(broken)


@pytest.mark.parametrize(("place", "bit"), [(6, 64), (8, 1), (8, 32), (10, 4)])
def test_a_flipped_bit_in_the_directory_is_refused(mar: Path, tmp_path: Path, place: int, bit: int) -> None:
    """The bits are of the version needed, the flags for encryption and patched data, and the compression method."""
    content = bytearray(mar.read_bytes())
    content[content.index(b"PK\x01\x02") + place] ^= bit
    broken = tmp_path / "broken.mar"
    broken.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"broken\.mar"):
        archive.verify(broken)


def test_temporary_files_may_lie_behind_a_link(mar: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    with archive._unpacked(mar, archive._contents(mar), tmp_path / "link") as folder:
        assert (folder / "card.json").is_file()


def test_an_archive_that_would_fill_the_disk_is_refused(mar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ArchiveError, match=r"lookalike\.mar: refused, it unpacks to more than 1,000 bytes$"):
        archive.verify(mar)


def test_a_proof_that_takes_too_long_says_so(mar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "PROOF_SECONDS", 0.01)
    told = (
        r"lookalike\.mar: verifying took longer than 0\.01 s; is the machine busy\? `start --wait-seconds` gives more"
    )
    with pytest.raises(ArchiveError, match=told):
        archive.verify(mar)


def test_a_proof_is_given_more_time_but_never_less(mar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def spy(command: list[str], *, timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        limits.append(timeout)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", spy)
    for seconds in (40, 600):
        archive.verify(mar, seconds=seconds)
    assert limits == [archive.PROOF_SECONDS, 600]


@pytest.mark.parametrize("content", [None, b"half"])
def test_no_card_is_read_from_what_is_no_archive(tmp_path: Path, content: bytes | None) -> None:
    damaged = tmp_path / "damaged.mar"
    if content:
        damaged.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"damaged\.mar"):
        archive.read_card(damaged)


@pytest.mark.parametrize("name", ["handler", "card", "generator", "MANIFEST", "SHA256"])
@pytest.mark.parametrize("content", [b"{}", b"", None])
def test_a_changed_file_is_refused(mar: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    with pytest.raises(ArchiveError):
        archive.verify(repacked(mar, tmp_path / "changed.mar", **{name: content}))


def test_another_models_card_is_refused_even_with_fitting_checksums(
    mar: Path, artifact_directory: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(artifact_directory, other)
    card = json.loads((other / "card.json").read_text())
    card["golden"][0]["rows"][0][0] ^= 1
    (other / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArchiveError, match="golden samples of seed 0"):
        archive.verify(archive.build(other, tmp_path / "swapped.mar"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"golden": []}, "no golden samples"),
        ({"golden": [{"seed": 0, "rows": []}]}, "no golden samples"),
        ({"gate": []}, "which limits"),
        ({"gate": {"missed": "c2st_auc"}}, "which limits"),
        ({"gate": {"missed": [1]}}, "which limits"),
        ({"run_id": 7}, "names no run"),
    ],
)
def test_a_card_that_a_server_could_not_use_is_refused_whatever_the_archives_own_code_says_of_it(
    artifact_directory: Path, tmp_path: Path, damage: dict[str, Any], message: str
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact_directory, damaged)
    card = json.loads((damaged / "card.json").read_text())
    (damaged / "card.json").write_text(json.dumps(card | damage))
    with pytest.raises(ArchiveError, match=f"not a Lookalike model archive .*{message}"):
        archive.verify(archive.build(damaged, tmp_path / "damaged.mar"))


def test_a_manifest_of_another_version_is_refused_even_with_fitting_checksums(mar: Path, tmp_path: Path) -> None:
    manifest = archive._manifest("2")
    with zipfile.ZipFile(mar) as source:
        contents = {name: source.read(name) for name in source.namelist() if name != archive.CHECKSUMS}
    checksums = json.dumps(archive._checksums(contents | {archive.MANIFEST: manifest})).encode()
    changed = repacked(mar, tmp_path / "changed.mar", MANIFEST=manifest, SHA256=checksums)
    with pytest.raises(ArchiveError, match="the manifest names another model or version than the card"):
        archive.verify(changed)


def test_a_name_that_leaves_the_folder_is_refused(mar: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.mar"
    contents = {"../evil.py": b"", "card.json": b"{}"}
    with zipfile.ZipFile(evil, "w") as made:
        for name, content in contents.items():
            made.writestr(name, content)
        made.writestr(archive.CHECKSUMS, json.dumps(archive._checksums(contents)))
    with pytest.raises(ArchiveError, match="outside"):
        archive.verify(evil)


@pytest.mark.parametrize("version", [None, "", "../1", "a b", "x" * 65])
def test_an_artifact_without_a_usable_version_is_refused(
    artifact_directory: Path, tmp_path: Path, version: str | None
) -> None:
    shutil.copytree(artifact_directory, tmp_path / "artifact")
    card = json.loads((artifact_directory / "card.json").read_text())
    changed = {name: value for name, value in (card | {"version": version}).items() if value is not None}
    (tmp_path / "artifact" / "card.json").write_text(json.dumps(changed))
    with pytest.raises(ArchiveError, match="version"):
        archive.build(tmp_path / "artifact", tmp_path / "lookalike.mar")
    assert not (tmp_path / "lookalike.mar").exists()


def imports(file: Path) -> set[str]:
    """The dotted names of all imports in a file, also those within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_of_train_serving_imports_only_what_its_image_has() -> None:
    training = Path(train.__file__).parent
    named = {name for file in archive.HERE.glob("*.py") for name in imports(file)}
    assert {path.name for path in training.glob("*.py") if f"train.{path.stem}" in named} <= set(train.SERVED)
    staying = set(train.SERVED) - set(train.LEAVES)
    assert "store.py" in staying
    used = {name for module in staying for name in imports(training / module)}
    assert {name.split(".")[0] for name in used} <= sys.stdlib_module_names | {"click", "train"}
    assert {path.name for path in training.glob("*.py") if f"train.{path.stem}" in used} <= set(train.SERVED)


def test_importing_it_is_light() -> None:
    code = "import sys, serve.archive; print({'torch', 'requests', 'numpy', 'click'} & set(sys.modules))"
    root = Path(archive.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_the_time_of_day_is_not_in_an_archive(
    mar: Path, artifact_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 2e9)
    again = archive.build(artifact_directory, tmp_path / "lookalike.mar")
    assert again.read_bytes() == mar.read_bytes()


def test_a_manifest_of_another_model_is_refused(mar: Path, tmp_path: Path) -> None:
    manifest = archive._manifest("1").replace(b'"lookalike"', b'"other"')
    with zipfile.ZipFile(mar) as source:
        contents = {name: source.read(name) for name in source.namelist() if name != archive.CHECKSUMS}
    checksums = json.dumps(archive._checksums(contents | {archive.MANIFEST: manifest})).encode()
    with pytest.raises(ArchiveError, match="another model or version"):
        archive.verify(repacked(mar, tmp_path / "changed.mar", MANIFEST=manifest, SHA256=checksums))
