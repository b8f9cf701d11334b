"""Which commands the Makefile runs on which machine. No engine is needed: a fake client records its calls."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.docker.conftest import ROOT
from tests.docker.fake import FOUND, NVIDIA, PLAIN, Done, Machine, after, machine
from train.config import resolve


@pytest.fixture
def box(tmp_path: Path) -> Machine:
    return machine(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> str:
    return f"--out {tmp_path / 'runs'}"


def is_local(done: Done) -> bool:
    return done.code == 0 and "local: -m train fit" in done.output and not any(c[1] == "run" for c in done.calls)


def test_a_machine_without_docker_trains_in_its_venv(box: Machine, out: str) -> None:
    done = box.make("train", f"ARGS={out} --seed 3", DOCKER="no-such-client")
    assert is_local(done)
    assert "Runtime for training: local venv (Docker is not installed)" in done.output
    assert f"local: -m train fit {out} --seed 3" in done.output


def test_a_client_without_an_engine_trains_in_the_venv(box: Machine, out: str) -> None:
    done = box.make("train", f"ARGS={out}")
    assert is_local(done)
    assert "local venv (no Docker engine answers)" in done.output


def test_an_engine_without_gpus_trains_in_the_venv_and_names_the_alternative(box: Machine, out: str) -> None:
    done = box.make("train", f"ARGS={out}", runtimes=PLAIN)
    assert is_local(done)
    assert "has no NVIDIA runtime; RUNTIME=docker uses it anyway" in done.output


def test_a_gpu_box_trains_in_docker_on_all_gpus(box: Machine, out: str) -> None:
    done = box.make("train", f"ARGS=--data digits {out}", runtimes=NVIDIA)
    assert done.code == 0, done.errors
    assert "Runtime for training: Docker (Docker and the NVIDIA runtime answer)" in done.output
    build = done.call("docker", "build")
    assert after(build, "--tag") == ["lookalike-train:cuda"]
    assert "TORCH_INDEX=" in after(build, "--build-arg"), "torch's CUDA build comes from PyPI"
    run = done.call("docker", "run")
    assert after(run, "--gpus") == ["all"]
    assert after(run, "--shm-size") == ["1g"]
    assert after(run, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert run[run.index("lookalike-train:cuda") + 1 :] == ["fit", "--data", "digits", *out.split()]
    shown = next(line for line in done.errors.splitlines() if line.startswith("+ "))
    assert shown.split()[:3] == ["+", "docker", "run"]
    assert "--gpus all" in shown


def test_the_command_that_is_shown_can_be_pasted(box: Machine, tmp_path: Path) -> None:
    table = tmp_path / "Anna's $new \\ reviews.csv"
    table.touch()
    settings = {"runtimes": NVIDIA, "GPUS": "0,1", "LOOKALIKE_DATA": str(table)}
    done = box.make("train", f"ARGS=--out {tmp_path}/runs --text ''", **settings)
    shown = next(line for line in done.errors.splitlines() if line.startswith("+ "))
    pasted = subprocess.run(["sh", "-c", f"printf '%s\\n' {shown[2:]}"], capture_output=True, text=True, check=True)
    words = pasted.stdout.splitlines()
    assert f"type=bind,source={table},target={table},readonly" in words
    assert words[-1] == ""
    assert words[:-1] == done.call("docker", "run")


def test_gpus_chooses(box: Machine, out: str) -> None:
    run = box.make("train", f"ARGS={out}", runtimes=NVIDIA, GPUS="0,1").call("docker", "run")
    assert after(run, "--gpus") == ['"device=0,1"'], "quoted, since the client splits its value at commas"


def test_gpus_that_docker_knows_without_a_runtime_are_used(box: Machine, out: str) -> None:
    settings = {"runtimes": PLAIN, "DEVICES": FOUND}
    done = box.make("train", f"ARGS={out}", **settings)
    assert "Runtime for training: Docker (Docker answers and has found NVIDIA's GPUs)" in done.output
    run = done.call("docker", "run")
    assert after(run, "--device") == ["nvidia.com/gpu=all"]
    assert "--gpus" not in run
    assert "lookalike-train:cuda" in run
    chosen = box.make("train", f"ARGS={out}", GPUS="0,1", **settings).call("docker", "run")
    assert sorted(after(chosen, "--device")) == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert "--device" not in box.make("train", f"ARGS={out}", GPUS="none", RUNTIME="docker", **settings).call(
        "docker", "run"
    )


def test_torch_for_an_older_driver_goes_into_the_image_for_gpus(box: Machine, out: str) -> None:
    index = "https://index.example/cu126"
    done = box.make("train", f"ARGS={out}", runtimes=NVIDIA, CUDA_INDEX=index, TORCH_INDEX="https://index.example/cpu")
    assert f"TORCH_INDEX={index}" in after(done.call("docker", "build"), "--build-arg")


def test_gpus_none_takes_the_small_image(box: Machine, out: str) -> None:
    done = box.make("train", f"ARGS={out}", runtimes=NVIDIA, GPUS="none", TORCH_INDEX="https://index.example")
    assert "TORCH_INDEX=https://index.example" in after(done.call("docker", "build"), "--build-arg")
    run = done.call("docker", "run")
    assert "--gpus" not in run
    assert "lookalike-train:cpu" in run


def test_gpus_holds_in_the_venv_too(box: Machine, out: str) -> None:
    chosen = box.make("train", f"ARGS={out}", GPUS="1", RUNTIME="local").output
    assert "CUDA_VISIBLE_DEVICES=1\n" in chosen
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID\n" in chosen, "the same GPU as in Docker"
    assert "CUDA_VISIBLE_DEVICES=\n" in box.make("train", f"ARGS={out}", GPUS="none", RUNTIME="local").output
    assert "CUDA_VISIBLE_DEVICES=unset" in box.make("train", f"ARGS={out}", RUNTIME="local").output


@pytest.mark.parametrize(
    ("settings", "runtimes", "code", "message"),
    [
        ({"RUNTIME": "docker"}, "", 1, "RUNTIME=docker: no Docker engine answers"),
        ({"RUNTIME": "docker", "GPUS": "0"}, PLAIN, 1, "GPUS=0: Docker has no NVIDIA runtime here"),
        ({"RUNTIME": "podman"}, NVIDIA, 2, "RUNTIME must be auto, local or docker, not podman"),
        ({"GPUS": "first"}, NVIDIA, 2, "GPUS must be all, none or numbers such as 0,1, not first"),
        ({"GPUS": "0,,1"}, NVIDIA, 2, "GPUS must be"),
    ],
)
def test_wishes_that_cannot_be_met(
    box: Machine, settings: dict[str, str], runtimes: str, code: int, message: str
) -> None:
    done = box.make("train", runtimes=runtimes, **settings)
    assert done.code == 2  # make's own exit code
    assert f"Error {code}" in done.errors
    assert f"Error: {message}" in done.errors
    assert not any(call[1] in ("build", "run") for call in done.calls)


@pytest.mark.parametrize(
    ("uri", "network"),
    [
        ("", "none"),
        ("sqlite:///{runs}/localhost/mlflow.db", "none"),
        ("http://localhost:5000", "host"),
        ("http://127.0.0.1:5000", "host"),
        ("http://me:secret@localhost:5000", "host"),
        ("http://me:secret@127.0.0.1:5000", "host"),
        ("http://[::1]:5000", "host"),
        ("http://0.0.0.0:5000", "host"),
        ("https://me:secret@mlflow.example.org", "bridge"),
        ("https://mlflow.example.org", "bridge"),
    ],
)
def test_only_mlflow_may_need_a_network(box: Machine, tmp_path: Path, out: str, uri: str, network: str) -> None:
    settings = {"MLFLOW_TRACKING_URI": uri.format(runs=tmp_path / "runs")} if uri else {}
    run = box.make("train", f"ARGS={out}", runtimes=NVIDIA, **settings).call("docker", "run")
    assert after(run, "--network") == [network]
    assert ("MLFLOW_TRACKING_URI" in after(run, "--env")) == bool(uri)


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////srv/mlflow.db", "/srv/mlflow.db"),
        ("sqlite:///{runs}/../mlflow.db", "{folder}/mlflow.db"),
        ("sqlite:///mlflow.db", f"{ROOT}/mlflow.db"),
        ("file:///srv/mlruns", "/srv/mlruns"),
        ("../mlruns", f"{ROOT.parent}/mlruns"),
    ],
)
def test_a_store_that_would_be_lost_with_the_container_is_refused(
    box: Machine, tmp_path: Path, out: str, uri: str, file: str
) -> None:
    named = uri.format(runs=tmp_path / "runs")
    done = box.make("train", f"ARGS={out}", runtimes=NVIDIA, MLFLOW_TRACKING_URI=named)
    assert "Error 2" in done.errors
    assert f"Error: MLFLOW_TRACKING_URI names {file.format(folder=tmp_path)}, which would be lost" in done.errors
    assert f"name a file under {tmp_path}/runs or a server, or use RUNTIME=local" in done.errors
    assert not any(call[1] in ("build", "run") for call in done.calls)
    assert not (tmp_path / "runs").exists()
    assert is_local(box.make("train", f"ARGS={out}", RUNTIME="local", MLFLOW_TRACKING_URI=named))


@pytest.mark.parametrize(
    "uri",
    ["sqlite:///{here}/mlflow.db", "sqlite:///{runs}/a%20store?timeout=9", "file://{runs}/mlruns", "{here}/mlruns"],
)
def test_a_store_that_stays_is_used(box: Machine, tmp_path: Path, uri: str) -> None:
    runs = tmp_path / "runs"
    named = uri.format(runs=runs, here=os.path.relpath(runs, ROOT))
    settings = {"runtimes": NVIDIA, "MLFLOW_TRACKING_URI": named}
    assert box.make("train", f"ARGS=--out {runs}", **settings).call("docker", "run")
    (runs / "00001-toy-bits").mkdir()
    (runs / "00001-toy-bits" / "config.json").touch()
    assert box.make("train", f"ARGS=--resume --out {runs}/00001-toy-bits", **settings).call("docker", "run")
    mount = f"--mount type=bind,source={runs},target={runs}"
    elsewhere = f"ARGS=--out {tmp_path}/others"
    assert box.make("train", elsewhere, DOCKER_ARGS=mount, **settings).call("docker", "run")
    assert box.make("train", elsewhere, **settings).code


def test_settings_reach_the_job_and_secrets_stay_out_of_the_command(box: Machine, out: str) -> None:
    settings = {"MLFLOW_TRACKING_TOKEN": "s3cret", "LOOKALIKE_SEED": "4", "LOOKALIKE_CACHE": "/x", "AWS_SECRET": "y"}
    done = box.make("train", f"ARGS={out}", runtimes=NVIDIA, **settings)
    names = after(done.call("docker", "run"), "--env")
    assert {"MLFLOW_TRACKING_TOKEN", "LOOKALIKE_SEED"} <= set(names)
    assert not {"LOOKALIKE_CACHE", "AWS_SECRET"} & set(names)
    assert "s3cret" not in done.errors + str(done.calls)


def test_paths_mean_the_same_inside(box: Machine, tmp_path: Path) -> None:
    table = tmp_path / "my reviews.csv"
    table.touch()
    done = box.make("train", f"ARGS=--data '{table}' --out={tmp_path}/runs", runtimes=NVIDIA)
    run = done.call("docker", "run")
    assert set(after(run, "--mount")) == {
        f"type=bind,source={ROOT},target={ROOT},readonly",
        f"type=bind,source={table},target={table},readonly",
        f"type=bind,source={tmp_path}/runs,target={tmp_path}/runs",
    }
    assert after(run, "--workdir") == [str(ROOT)]
    assert run[-3:] == ["--data", str(table), f"--out={tmp_path}/runs"]
    named = box.make("train", f"ARGS=--out={tmp_path}/runs", runtimes=NVIDIA, LOOKALIKE_DATA=str(table))
    mounts = after(named.call("docker", "run"), "--mount")
    assert f"type=bind,source={table},target={table},readonly" in mounts


def test_a_folder_is_mounted_once(box: Machine, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    done = box.make("train", f"ARGS=--data {tmp_path} --config {tmp_path} --out {runs}", runtimes=NVIDIA)
    mounts = after(done.call("docker", "run"), "--mount")
    assert sorted(mounts) == sorted(
        [
            f"type=bind,source={ROOT},target={ROOT},readonly",
            f"type=bind,source={tmp_path},target={tmp_path},readonly",
            f"type=bind,source={runs},target={runs}",
        ]
    )


def test_a_dry_run_creates_nothing(box: Machine, tmp_path: Path, out: str) -> None:
    assert box.make("train", f"ARGS={out} --dry-run", runtimes=NVIDIA).code == 0
    assert not (tmp_path / "runs").exists()


def test_a_new_folder_of_runs_is_its_owners_alone(box: Machine, tmp_path: Path, out: str) -> None:
    """As train/rundir.py creates it: runs are as private as the data."""
    box.make("train", f"ARGS={out}", runtimes=NVIDIA)
    box.make("up", runtimes=PLAIN, RUNS=str(tmp_path / "composed"))
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("runs", "composed")] == [0o700] * 2


def test_a_rootless_engine_maps_its_root_to_the_caller(box: Machine, out: str) -> None:
    done = box.make("train", f"ARGS={out}", runtimes=NVIDIA, SECURITY='["name=rootless"]')
    assert after(done.call("docker", "run"), "--user") == ["0:0"]


@pytest.mark.parametrize("runtime", ["docker", "local"])
def test_a_signal_to_make_reaches_the_job(box: Machine, out: str, runtime: str) -> None:
    done = box.make("train", f"ARGS={out}", runtimes=PLAIN, RUNTIME=runtime, STAYS="yes", until="waiting")
    assert "stopped" in done.output


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "00001-toy-bits"
    run.mkdir(parents=True)
    (run / "lookalike.mar").touch()
    return run.parent


def test_a_run_that_goes_on_is_seen_beside_its_store(box: Machine, runs: Path) -> None:
    (runs / "00001-toy-bits" / "config.json").touch()
    run = box.make("train", f"ARGS=--resume --out {runs}/00001-toy-bits", runtimes=NVIDIA).call("docker", "run")
    assert after(run, "--mount")[1:] == [f"type=bind,source={runs},target={runs}"]


@pytest.mark.parametrize("named", [True, False])
def test_a_run_that_goes_on_sees_its_data_and_its_gate(box: Machine, runs: Path, tmp_path: Path, named: bool) -> None:
    table, limits, older = tmp_path / "für alle \\.csv", tmp_path / "my gate.yaml", runs / "00000-toy-bits"
    table.touch()
    limits.touch()
    older.mkdir()
    for run, options in ((older, {}), (runs / "00001-toy-bits", {"data": str(table), "gate": str(limits)})):
        (run / "config.json").write_text(resolve({"data": "toy", **options}).to_json())
    out = runs / "00001-toy-bits" if named else runs
    mounts = after(box.make("train", f"ARGS=--resume --out {out}", runtimes=NVIDIA).call("docker", "run"), "--mount")
    for file in (table, limits):
        assert f"type=bind,source={file},target={file},readonly" in mounts


def test_data_behind_a_link_are_mounted_where_it_leads(box: Machine, runs: Path, tmp_path: Path) -> None:
    table, link = tmp_path / "reviews.csv", runs / "link.csv"
    table.touch()
    link.symlink_to(table)
    run = box.make("train", f"ARGS=--data {link} --out {runs}", runtimes=NVIDIA).call("docker", "run")
    assert f"type=bind,source={table},target={table},readonly" in after(run, "--mount")


def test_files_behind_the_links_of_a_folder_are_mounted_where_these_lead(box: Machine, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "data", tmp_path / "else where"
    for made in (folder, elsewhere):
        made.mkdir()
    for file in (folder / "own.csv", elsewhere / "a.csv", elsewhere / "b.csv"):
        file.touch()
    targets = {
        "a.csv": elsewhere / "a.csv",
        "same.csv": elsewhere / "a.csv",
        "b.csv": "../else where/b.csv",
        "own-again.csv": "own.csv",
        "here.csv": ROOT / "README.md",
        "broken.csv": elsewhere / "no-such-file",
        "folder": elsewhere,
    }
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    run = box.make("train", f"ARGS=--data {folder} --out {tmp_path}/runs", runtimes=NVIDIA).call("docker", "run")
    reading = [mount for mount in after(run, "--mount") if mount.endswith(",readonly")][1:]
    mounted = (folder, elsewhere / "a.csv", elsewhere / "b.csv")
    assert sorted(reading) == sorted(f"type=bind,source={path},target={path},readonly" for path in mounted)


@pytest.mark.parametrize("name", ["a,b", 'a"b'])
@pytest.mark.parametrize("what", ["data", "link", "runs", "model", "token"])
def test_a_path_that_docker_cannot_mount_is_refused(
    box: Machine, runs: Path, tmp_path: Path, what: str, name: str
) -> None:
    path, folder = tmp_path / name, tmp_path / "folder"
    path.touch()
    folder.mkdir()
    (folder / "link.csv").symlink_to(path)
    target, options = {
        "data": ("train", f"--data '{path}' --out {runs}"),
        "link": ("train", f"--data {folder} --out {runs}"),
        "runs": ("train", f"--out '{path}'"),
        "model": ("serve", f"--model '{path}'"),
        "token": ("serve", f"--runs {runs} --token-file '{path}'"),
    }[what]
    done = box.make(target, f"ARGS={options}", runtimes=NVIDIA)
    assert "Error 2" in done.errors
    assert f"Error: {path}: Docker cannot mount a path with a comma or a double quote; use RUNTIME=local" in done.errors
    assert not any(call[1] in ("build", "run") for call in done.calls)


def test_a_comma_in_a_path_below_a_mounted_one_is_no_matter(box: Machine, runs: Path) -> None:
    (runs / "a,b.csv").touch()
    assert box.make("train", f"ARGS=--data '{runs}/a,b.csv' --out {runs}", runtimes=NVIDIA).call("docker", "run")


def test_a_machine_without_gpus_serves_from_its_venv(box: Machine, runs: Path) -> None:
    done = box.make("serve", f"ARGS=--runs {runs}", runtimes=PLAIN)
    assert f"local: -m serve start --runs {runs}" in done.output


def test_serving_in_docker_is_locked_down(box: Machine, runs: Path) -> None:
    done = box.make("serve", f"ARGS=--runs {runs} --workers 2", runtimes=PLAIN, RUNTIME="docker", SERVING="")
    run = done.call("docker", "run")
    assert {"--read-only", "--detach"} <= set(run)
    assert after(run, "--cap-drop") == ["ALL"]
    assert after(run, "--publish") == ["127.0.0.1:8080:8080"]
    assert after(run, "--mount") == [f"type=bind,source={runs},target=/models,readonly"]
    assert run[run.index("lookalike-serve", run.index("--mount")) + 1 :] == ["--port", "8080", "--workers", "2"]


def test_serving_takes_ports_address_and_model(box: Machine, runs: Path) -> None:
    model = runs / "00001-toy-bits" / "lookalike.mar"
    arguments = f"ARGS=--model={model} --host 0.0.0.0 --port 9000 --metrics-port 9002"
    run = box.make("serve", arguments, runtimes=NVIDIA, SERVING="").call("docker", "run")
    assert set(after(run, "--publish")) == {"0.0.0.0:9000:9000", "0.0.0.0:9002:9002"}
    assert after(run, "--mount") == [f"type=bind,source={model},target=/models/lookalike.mar,readonly"]


def test_a_warning_of_the_container_is_passed_on(box: Machine, runs: Path) -> None:
    done = box.make("serve", f"ARGS=--runs {runs}", runtimes=NVIDIA, SERVING="")
    assert done.code == 0
    assert "Warning: version 7 missed" in done.errors


def test_serving_without_a_model_says_what_to_do(box: Machine, tmp_path: Path) -> None:
    done = box.make("serve", f"ARGS=--runs {tmp_path}/none", runtimes=NVIDIA)
    assert done.code == 2
    assert "train a model first: make train" in done.errors


def test_a_serving_container_answers_request_status_and_stop(box: Machine) -> None:
    settings = {"runtimes": PLAIN, "SERVING": "true"}
    asked = box.make("request", **settings).call("docker", "exec")
    assert asked[2:] == ["lookalike-serve", "python", "-m", "serve", "request", "-n", "5"]
    assert box.make("status", **settings).call("docker", "exec")[-1] == "status"
    stopped = box.make("stop", **settings)
    assert after(stopped.call("docker", "stop"), "-t") == ["55"]  # the same as --stop-timeout
    assert "local:" not in stopped.output
    assert "local: -m serve request -n 5" in box.make("request", runtimes=PLAIN).output
    assert "local: -m serve stop" in box.make("stop", runtimes=PLAIN, SERVING="true", RUNTIME="local").output


def test_status_of_a_container_says_where_it_is_reached(box: Machine) -> None:
    done = box.make("status", "ARGS=--json", runtimes=PLAIN, SERVING="true")
    assert "These are addresses inside the container; here: http://127.0.0.1:5000" in done.errors, "not within the JSON"
    assert done.call("docker", "exec")[2:] == ["lookalike-serve", "python", "-m", "serve", "status", "--json"]


def test_who_asks_for_a_container_and_has_none_is_told_at_once(box: Machine) -> None:
    settings = {"runtimes": PLAIN, "RUNTIME": "docker"}
    stopped = box.make("stop", **settings)
    assert (stopped.code, stopped.output) == (0, "no server is running here\n")
    asked = box.make("status", **settings)
    assert asked.code
    assert "no container is serving here; start one with: make serve RUNTIME=docker" in asked.errors
    assert "local:" not in asked.output


def test_the_composed_server_answers_request_and_status_and_is_left_to_down(box: Machine) -> None:
    settings = {"runtimes": PLAIN, "COMPOSED": "0123456789ab", "PROJECT": "another"}
    asked = box.make("request", **settings)
    assert asked.call("docker", "exec")[2:] == ["0123456789ab", "python", "-m", "serve", "request", "-n", "5"]
    assert set(after(asked.call("docker", "ps"), "--filter")) == {
        "label=com.docker.compose.project=another",
        "label=com.docker.compose.service=serve",
        "label=com.docker.compose.oneoff=False",
    }
    assert box.make("status", RUNTIME="docker", **settings).call("docker", "exec")[-1] == "status"
    stopped = box.make("stop", **settings)
    assert stopped.code
    assert "make down stops it" in stopped.errors
    assert not any(call[1] in ("stop", "rm") for call in stopped.calls)
    assert "local: -m serve status" in box.make("status", RUNTIME="local", **settings).output
    both = box.make("status", SERVING="true", **settings)
    assert both.call("docker", "exec")[2] == "lookalike-serve", "the one of make serve comes first"


@pytest.mark.parametrize("engine", [PLAIN, ""])
def test_where_no_server_can_run_no_environment_is_made_to_say_so(box: Machine, tmp_path: Path, engine: str) -> None:
    (box.folder / "venv" / ".ready").unlink()
    (box.folder / "venv" / "bin" / "python").unlink()
    nowhere = {"runtimes": engine, "LOOKALIKE_OUT": str(tmp_path)}
    for target in ("request", "status"):
        done = box.make(target, **nowhere)
        assert done.code
        assert "no server is running here; start one with: make serve" in done.errors
        assert "Setting up" not in done.output
    stopped = box.make("stop", **nowhere)
    assert (stopped.code, stopped.output) == (0, "no server is running here\n")


@pytest.mark.parametrize("named", ["address", "option", "state"])
def test_a_server_that_may_be_elsewhere_is_asked_with_an_environment_made_for_it(
    bare: Machine, tmp_path: Path, named: str
) -> None:
    (bare.folder / "venv" / "bin" / "python").unlink()
    settings = {"LOOKALIKE_OUT": str(tmp_path)}
    if named == "address":
        settings["LOOKALIKE_SERVE_ADDRESS"] = "http://another.example"
    elif named == "state":
        (tmp_path / "serve").mkdir()
        (tmp_path / "serve" / "state.json").touch()
    arguments = "ARGS=--address http://another.example" if named == "option" else "ARGS="
    done = bare.make("request", arguments, f"PYTHON={python(bare, 'exit 1')}", **settings)
    assert "Setting up" in done.output


def test_up_starts_what_there_is_to_start(box: Machine, runs: Path, tmp_path: Path) -> None:
    whole = box.make("up", runtimes=PLAIN, RUNS=str(runs))
    assert whole.code == 0, whole.errors
    (started,) = (call for call in whole.calls if "up" in call and call[0] == "docker-compose")
    assert after(started, "--profile") == ["tracking", "serve"]
    assert "mlflow is healthy: http://127.0.0.1:5000" in whole.output
    none = tmp_path / "none"
    (none / "champion").mkdir(parents=True)
    (none / "champion" / "lookalike.mar").touch()  # from MLflow, for baking into an image; not a run
    alone = box.make("up", runtimes=PLAIN, RUNS=str(none))
    (started,) = (call for call in alone.calls if "up" in call and call[0] == "docker-compose")
    assert after(started, "--profile") == ["tracking"]
    assert "so only MLflow starts" in alone.output
    new = tmp_path / "new"
    box.make("up", runtimes=PLAIN, RUNS=str(new))
    assert new.owner() == tmp_path.owner(), "otherwise the engine would create it, as its own user"


@pytest.mark.parametrize(("target", "name"), [("up", "0123456789ab"), ("serve", "lookalike-serve")])
def test_who_finds_a_server_running_is_told_how_to_switch_to_a_newer_run(
    box: Machine, runs: Path, target: str, name: str
) -> None:
    settings = {"runtimes": NVIDIA, "RUNS": str(runs), "MOUNTED": str(runs), "SERVING": "true"}
    same = box.make(target, **settings).output
    assert "it serves version 1\n" in same
    assert "to switch" not in same
    (runs / "00010-toy-bits").mkdir()
    (runs / "00010-toy-bits" / "lookalike.mar").touch()
    switch = f"docker exec {name} python -m serve use /models/00010-toy-bits"
    newer = box.make(target, VERSION="9", **settings).output
    assert f"it serves version 9\nthe newest run is 00010-toy-bits; to switch to it: {switch}\n" in newer
    assert "to switch" not in box.make(target, VERSION="10", **settings).output
    assert "to switch" not in box.make(target, VERSION="9", **settings | {"MOUNTED": ""}).output


@pytest.mark.parametrize(
    ("uri", "store"),
    [
        ("sqlite:///runs/mlflow.db", "its own"),
        ("http://127.0.0.1:5000", "its own"),
        ("http://me:secret@localhost:5000", "its own"),
        ("http://[::1]:5000", "its own"),
        ("runs/mlruns", "its own"),
        ("https://mlflow.example.org", "https://mlflow.example.org"),
    ],
)
def test_composed_jobs_are_not_sent_to_a_store_that_they_cannot_see(
    box: Machine, runs: Path, uri: str, store: str
) -> None:
    assert f"store={store}\n" in box.make("up", runtimes=PLAIN, RUNS=str(runs), MLFLOW_TRACKING_URI=uri).output


@pytest.mark.parametrize("target", ["up", "down", "build-images"])
def test_services_and_images_need_an_engine(box: Machine, target: str) -> None:
    done = box.make(target)
    assert done.code == 2
    assert "Error: this needs containers, and no Docker engine answers; make train" in done.errors
    assert not any("compose" in call[0] for call in done.calls)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("/srv/lookalike.mar", "only an archive at runs/…/lookalike.mar in this folder can be baked in"),
        ("runs/a/b/lookalike.mar", "only an archive at runs/…/lookalike.mar in this folder can be baked in"),
        ("runs/00001-toy-bits", "only an archive at runs/…/lookalike.mar in this folder can be baked in"),
        ("runs/no-such-run/lookalike.mar", "there is no such file"),
    ],
)
def test_a_model_that_the_engine_would_not_be_sent_is_refused(box: Machine, model: str, reason: str) -> None:
    done = box.make("build-images", runtimes=PLAIN, MODEL=model)
    assert done.code == 2
    assert "Error 2" in done.errors
    assert f"Error: MODEL={model}: {reason}" in done.errors
    assert not any(call[1] == "build" for call in done.calls)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, f"RUNS={ROOT}/runs DATA={ROOT} "),
        ({"RUNS": "docker", "DATA": "./tests"}, f"RUNS={ROOT}/docker DATA={ROOT}/./tests "),
        ({"RUNS": "/tmp", "DATA": "/srv/data"}, "RUNS=/tmp DATA=/srv/data "),
    ],
)
def test_folders_of_services_are_those_seen_from_here(box: Machine, given: dict[str, str], meant: str) -> None:
    """Compose takes a plain name for a volume, and resolves other relative paths against its own file."""
    assert meant in box.make("up", runtimes=PLAIN, **given).output


def test_services_run_as_the_caller_also_where_the_engine_is_rootless(box: Machine) -> None:
    caller = box.folder / "bin" / "id"
    caller.write_text("#!/bin/sh\necho 1234\n")
    caller.chmod(0o755)
    assert "user=1234:1234 " in box.make("up", runtimes=PLAIN).output
    assert "user=0:0 " in box.make("up", runtimes=PLAIN, SECURITY='["name=rootless"]').output
    chosen = {"LOOKALIKE_UID": "7", "LOOKALIKE_GID": "8"}
    assert "user=7:8 " in box.make("up", runtimes=PLAIN, **chosen).output


def python(box: Machine, script: str) -> str:
    """A fake system Python, which runs the script when asked to create a virtual environment at $3."""
    path = box.folder / "bin" / "python3.11"
    path.write_text(f'#!/bin/sh\n[ "$2" != venv ] || {{ {script}; }}\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def bare(box: Machine) -> Machine:
    """A machine with an unfinished virtual environment: it has Python, but no pip."""
    (box.folder / "venv" / ".ready").unlink()
    (box.folder / "venv" / "bin" / "python").write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    return box


def test_a_half_made_environment_is_made_again(bare: Machine) -> None:
    whole = python(bare, "printf '#!/bin/sh\\n' > \"$3/bin/python\"")
    done = bare.make("setup", f"PYTHON={whole}")
    assert done.code == 0, done.errors
    assert "Setting up" in done.output
    assert (bare.folder / "venv" / ".ready").is_file()


def test_without_a_python_that_makes_environments_setup_says_what_to_install(bare: Machine) -> None:
    done = bare.make("setup", f"PYTHON={python(bare, 'exit 1')}")
    assert done.code == 2
    assert "No module named pip" not in done.errors
    assert "Debian: apt install python3-venv" in done.errors
    assert not (bare.folder / "venv" / ".ready").exists()


@pytest.mark.parametrize(("driver", "taken"), [("exit 1", 2), ("echo GPU 0", 0)])
def test_a_box_without_a_driver_takes_the_small_torch_where_it_is_told(bare: Machine, driver: str, taken: int) -> None:
    program = bare.folder / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{driver}\n")
    program.chmod(0o755)
    told = bare.make("-n", "setup", "TORCH_INDEX=https://index.example/cpu")
    assert told.output.count("install --quiet --extra-index-url https://index.example/cpu") == taken
    assert "extra-index-url" not in bare.make("-n", "setup").output
    older = bare.make("-n", "setup", "CUDA_INDEX=https://index.example/cu126", "TORCH_INDEX=https://index.example/cpu")
    assert older.output.count("--extra-index-url https://index.example/cu126") == 2 - taken


def test_all_that_setup_installs_is_pinned(bare: Machine) -> None:
    installs = [line for line in bare.make("-n", "setup").output.splitlines() if "pip install" in line]
    assert ["--constraint constraints.txt" in line for line in installs] == [True, True]


def test_a_server_of_mlflow_is_not_started_again(box: Machine) -> None:
    done = box.make("mlflow", MLFLOW_TRACKING_URI="http://mlflow.example:5000")
    assert done.code == 0, done.errors
    assert "no need to start one: open http://mlflow.example:5000" in done.output


def test_make_prints_what_it_would_run(box: Machine) -> None:
    done = box.make("-n", "train", "GPUS=0,1", "RUNTIME=docker", "ARGS=--data digits")
    assert "RUNTIME=docker GPUS=0,1" in done.output
    assert done.output.strip().endswith("docker/runtime.sh train --data digits")
    assert not done.calls


def test_a_job_has_no_capabilities_and_gains_none(box: Machine, out: str) -> None:
    run = box.make("train", f"ARGS={out}", runtimes=NVIDIA).call("docker", "run")
    assert (after(run, "--cap-drop"), after(run, "--security-opt")) == (["ALL"], ["no-new-privileges"])


def test_the_server_is_the_callers_and_gains_nothing(box: Machine, runs: Path) -> None:
    run = box.make("serve", f"ARGS=--runs {runs}", runtimes=NVIDIA, SERVING="").call("docker", "run")
    assert after(run, "--security-opt") == ["no-new-privileges"]
    assert after(run, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    (tmpfs,) = after(run, "--tmpfs")
    assert "exec" in tmpfs.split(":")[1].split(","), "Java loads a library from there"


@pytest.mark.parametrize("target", ["train", "serve"])
def test_more_options_reach_the_engine(box: Machine, runs: Path, target: str) -> None:
    settings = {"runtimes": NVIDIA, "SERVING": "", "DOCKER_ARGS": "--memory 8g", "LOOKALIKE_OUT": str(runs)}
    assert after(box.make(target, **settings).call("docker", "run"), "--memory") == ["8g"]


def test_settings_reach_the_server_but_for_those_of_the_outside(box: Machine, runs: Path) -> None:
    names = ("WORKERS", "TOKENS", "RUNS", "HOST", "PORT", "METRICS_PORT", "TOKEN", "ADDRESS")
    values = ("3", "false", str(runs), "0.0.0.0", "9000", "9002", "another-servers", "http://another.example")
    given = {f"LOOKALIKE_SERVE_{name}": value for name, value in zip(names, values, strict=True)}
    run = box.make("serve", runtimes=NVIDIA, SERVING="", **given).call("docker", "run")
    assert set(after(run, "--env")) == {"LOOKALIKE_SERVE_WORKERS", "LOOKALIKE_SERVE_TOKENS"}
    assert set(after(run, "--publish")) == {"0.0.0.0:9000:9000", "0.0.0.0:9002:9002"}


def test_a_token_is_mounted_and_named(box: Machine, runs: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    missing = box.make("serve", f"ARGS=--runs {runs} --token-file {token}", runtimes=NVIDIA, SERVING="")
    assert (missing.code, any(call[1] == "run" for call in missing.calls)) == (2, False)
    token.write_text("correct-horse-battery\n")
    done = box.make("serve", f"ARGS=--runs {runs} --token-file {token}", runtimes=NVIDIA, SERVING="")
    run = done.call("docker", "run")
    assert f"type=bind,source={token},target=/run/secrets/lookalike-token,readonly" in after(run, "--mount")
    assert after(run, "--token-file") == ["/run/secrets/lookalike-token"]
    assert "correct-horse-battery" not in done.output + done.errors + str(done.calls)


def test_a_registered_model_is_not_for_the_image(box: Machine) -> None:
    done = box.make("serve", "ARGS=--model models:/lookalike@champion", runtimes=NVIDIA, SERVING="")
    assert "the serving image does not contain MLflow; use RUNTIME=local" in done.errors


def test_a_model_is_baked_in(box: Machine, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT / "docker", project / "docker")
    archive = project / "runs" / "00001-x" / "lookalike.mar"
    archive.parent.mkdir(parents=True)
    archive.touch()
    notes = tmp_path / "notes"
    model = {"MODEL": "runs/00001-x/lookalike.mar", "BASE": "python@sha256:0"}
    settings = {"NOTES": str(notes), "RUNTIMES": PLAIN, **model}
    mine = {name: value for name, value in os.environ.items() if name != "DOCKER"}
    environment = mine | settings | {"PATH": f"{box.folder / 'bin'}:{os.environ['PATH']}"}
    subprocess.run([project / "docker" / "runtime.sh", "images"], env=environment, check=True, capture_output=True)
    calls = [line.split("\t") for line in notes.read_text().splitlines()]
    builds = {after(call, "--tag")[0]: call for call in calls if call[1] == "build"}
    assert list(builds) == ["lookalike-train:cpu", "lookalike-mlflow", "lookalike-serve", "lookalike-serve:baked"]
    assert after(builds["lookalike-serve:baked"], "--target") == ["baked"]
    assert "MODEL=runs/00001-x/lookalike.mar" in after(builds["lookalike-serve:baked"], "--build-arg")
    assert all("BASE=python@sha256:0" in after(call, "--build-arg") for call in builds.values())


@pytest.mark.parametrize("foreground", ["--foreground", ""])
def test_foreground_is_the_containers_own(box: Machine, runs: Path, foreground: str) -> None:
    run = box.make("serve", f"ARGS=--runs {runs} {foreground}", runtimes=NVIDIA, SERVING="").call("docker", "run")
    assert "--foreground" not in run


def test_a_server_that_runs_is_left_alone(box: Machine, runs: Path) -> None:
    done = box.make("serve", f"ARGS=--runs {runs}", runtimes=NVIDIA, SERVING="true")
    assert done.code == 0
    assert "Already serving in container lookalike-serve" in done.output
    assert not any(call[1] in ("rm", "stop", "run", "build") for call in done.calls)


def test_a_server_that_has_been_started_is_awaited(box: Machine, runs: Path) -> None:
    settings = {"runtimes": NVIDIA, "SERVING": "true", "SILENT": "yes"}
    done = box.make("serve", f"ARGS=--runs {runs}", until="docker\tlogs", **settings)
    assert "Already serving" not in done.output
    assert not any(call[1] in ("rm", "stop", "run") for call in done.calls), "it is another one's"


def test_a_container_that_cannot_start_is_removed(box: Machine, runs: Path) -> None:
    done = box.make("serve", f"ARGS=--runs {runs}", runtimes=NVIDIA, SERVING="", REFUSED="yes")
    assert done.calls[-1] == ["docker", "rm", "lookalike-serve"]
    assert "Error 1\n" in done.errors
    assert "Error: the container did not start and is removed; Docker's reason is above (for a" in done.errors


def test_an_interrupted_start_leaves_no_container(box: Machine, runs: Path) -> None:
    settings = {"runtimes": NVIDIA, "SERVING": "", "SILENT": "yes"}
    done = box.make("serve", f"ARGS=--runs {runs}", until="docker\tlogs", **settings)
    assert done.calls[-1] == ["docker", "rm", "--force", "lookalike-serve"]
    assert "Error: interrupted; the container that was starting is removed" in done.errors
    assert "Error 143" in done.errors


def test_a_container_that_ended_makes_room_for_the_next(box: Machine, runs: Path) -> None:
    calls = [call[1:] for call in box.make("serve", f"ARGS=--runs {runs}", runtimes=NVIDIA, SERVING="").calls]
    assert calls.index(["rm", "--force", "lookalike-serve"]) < [call[0] for call in calls].index("run")


@pytest.mark.parametrize("tokens", ["", "yes"])
def test_the_command_to_try_has_the_token_where_one_is_needed(box: Machine, runs: Path, tokens: str) -> None:
    done = box.make("serve", f"ARGS=--runs {runs}", runtimes=NVIDIA, SERVING="", TOKENS=tokens)
    header = "try      docker exec lookalike-serve python -m serve token --header | curl -X POST "
    assert (header in done.output) == (" -H @-" in done.output) == bool(tokens)


@pytest.mark.parametrize("ended", ["0", "1", "2"])
def test_a_server_that_ends_at_once_is_quoted(box: Machine, runs: Path, ended: str) -> None:
    done = box.make("serve", f"ARGS=--runs {runs} --help", runtimes=NVIDIA, SERVING="", ENDED=ended)
    assert "Usage: …" in done.output + done.errors
    assert done.call("docker", "rm", "lookalike-serve")
    assert done.code == (2 if int(ended) else 0)
    assert (f"Error {ended}\n" in done.errors) == bool(int(ended))
    assert ("the server exited unexpectedly" in done.errors) == (ended == "1")
    assert "address" not in done.output


def test_down_ends_whatever_was_composed(box: Machine) -> None:
    (call,) = (call for call in box.make("down", runtimes=PLAIN, RUNS=str(box.folder)).calls if call[-1] == "down")
    assert after(call, "--profile") == ["tracking", "serve", "train", "train-gpu"]
