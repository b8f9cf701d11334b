"""Dockerfiles, Compose file and manifests, checked by linters and schemas, without an engine or a network."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from serve import server, shutdown
from tests.docker.conftest import ROOT
from tests.docker.fake import after
from train import SERVED

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
KUBERNETES = "1.34"
TRAINER = "trainer.kubeflow.org/v1alpha1"

# Schemas of Kubeflow Trainer v2's two kinds, as far as our manifests use them. Kubernetes objects inside are checked
# against Kubernetes' own schemas.
LABELS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "labels": LABELS},
    "additionalProperties": False,
}
REFERENCE: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "apiGroup": {"const": "trainer.kubeflow.org"},
        "kind": {"enum": ["TrainingRuntime", "ClusterTrainingRuntime"]},
        "name": {"type": "string"},
    },
    "additionalProperties": False,
}
RESOURCES: dict[str, Any] = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
TRAIN_JOB: dict[str, Any] = {
    "type": "object",
    "required": ["runtimeRef"],
    "properties": {
        "runtimeRef": REFERENCE,
        "trainer": {
            "type": "object",
            "properties": {
                "image": {"type": "string"},
                "command": {"type": "array", "items": {"type": "string"}},
                "args": {"type": "array", "items": {"type": "string"}},
                "env": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                "numNodes": {"type": "integer", "minimum": 1},
                "resourcesPerNode": {
                    "type": "object",
                    "properties": {"requests": RESOURCES, "limits": RESOURCES},
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
TRAINING_RUNTIME: dict[str, Any] = {
    "type": "object",
    "required": ["template"],
    "properties": {
        "mlPolicy": {
            "type": "object",
            "properties": {"numNodes": {"type": "integer", "minimum": 1}},
            "additionalProperties": False,
        },
        "template": {
            "type": "object",
            "required": ["spec"],
            "properties": {
                "spec": {
                    "type": "object",
                    "required": ["replicatedJobs"],
                    "properties": {"replicatedJobs": {"type": "array", "minItems": 1}},
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every manifest as it is, and training manifests also with the runtime class that some clusters need."""
    for path in sorted((DOCKER / "k8s").glob("*.yaml")):
        text = path.read_text()
        for variant in dict.fromkeys((text, text.replace("# runtimeClassName", "runtimeClassName"))):
            for document in yaml.safe_load_all(variant):
                yield f"{path.name}-{document['kind']}", document


def pod_templates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template in the manifests, at any depth."""
    for name, document in manifests():
        spec = document["spec"]
        if document["kind"] == "TrainingRuntime":
            for job in spec["template"]["spec"]["replicatedJobs"]:
                yield name, job["template"]["spec"]["template"]
        elif document["kind"] in ("Deployment", "Job"):
            yield name, spec["template"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_name_the_torch_of_the_makefile(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text().splitlines()
    wanted = next(line.split("?=")[1].strip() for line in makefile if line.startswith("TORCH ?="))
    assert f"ARG TORCH={wanted}\n" in path.read_text()
    assert f"torch=${{TORCH:-{wanted}}}" in (DOCKER / "runtime.sh").read_text()
    assert f"TORCH: ${{TORCH:-{wanted}}}" in (DOCKER / "compose.yaml").read_text()


def test_composed_builds_take_the_base_that_was_asked_for_or_that_of_the_dockerfiles() -> None:
    (wanted,) = {base for path in DOCKERFILES for base in re.findall(r"^ARG BASE=(\S+)$", path.read_text(), re.M)}
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert {service["build"]["args"]["BASE"] for service in services.values()} == {f"${{BASE:-{wanted}}}"}


@pytest.mark.parametrize(
    ("name", "document"), list(manifests()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_manifests_are_what_kubernetes_expects(name: str, document: dict[str, Any]) -> None:
    if document["apiVersion"] != TRAINER:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document["metadata"], METADATA)
    schemas = {"TrainJob": TRAIN_JOB, "TrainingRuntime": TRAINING_RUNTIME}
    jsonschema.validate(document["spec"], schemas[document["kind"]])
    if document["kind"] == "TrainingRuntime":
        (node,) = document["spec"]["template"]["spec"]["replicatedJobs"]
        assert node["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
        assert [c["name"] for c in node["template"]["spec"]["template"]["spec"]["containers"]] == ["node"]
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}, "spec": node["template"]["spec"]}
        job["spec"]["template"]["spec"]["restartPolicy"] = "Never"  # JobSet's own default
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_applying_a_manifest_again_leaves_the_replicas_to_the_autoscaler() -> None:
    specs = {(made["kind"], made["metadata"]["name"]): made["spec"] for _, made in manifests()}
    scaled = [spec["scaleTargetRef"] for (kind, _), spec in specs.items() if kind == "HorizontalPodAutoscaler"]
    assert scaled
    for target in scaled:
        assert "replicas" not in specs[target["kind"], target["name"]]


@pytest.mark.parametrize(
    ("name", "template"), list(pod_templates()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_pods_are_locked_down(name: str, template: dict[str, Any]) -> None:
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "the environment variables of a Service would be taken for our settings"
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_serving_image_has_all_of_train_that_serving_uses() -> None:
    copied = re.findall(r"train/\w+\.py", (DOCKER / "serve.Dockerfile").read_text())
    assert copied == [f"train/{module}" for module in SERVED]


@pytest.mark.parametrize("name", ["train-job.yaml", "train-trainjob.yaml"])
def test_pods_that_hold_a_gpu_train_on_nothing_else(name: str) -> None:
    manifest = (DOCKER / "k8s" / name).read_text()
    assert manifest.count("train fit") == manifest.count("--device cuda") > 0, "a CPU would pass unnoticed"


def test_pods_that_train_can_ask_for_the_runtime_of_gpus() -> None:
    asked = [(name, template["spec"].get("runtimeClassName")) for name, template in pod_templates()]
    training = [runtime for name, runtime in asked if name.startswith("train")]
    assert training == [None, "nvidia"] * 2


def test_serving_manifests_belong_together() -> None:
    found = {document["kind"]: document for name, document in manifests() if name.startswith("serve.yaml")}
    assert set(found) == {
        "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy",
    }  # fmt: skip
    deployment = found["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert (
        found["HorizontalPodAutoscaler"]["spec"]["minReplicas"] > found["PodDisruptionBudget"]["spec"]["minAvailable"]
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == set(ports)
    admitted = {port["port"] for rule in found["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert admitted == set(ports.values()), "the management port is neither declared nor admitted"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = container[probe]["exec"]["command"]
        assert command[-1] in (DOCKER / "serve.Dockerfile").read_text(), "the image's own health check"


def test_whoever_stops_a_server_waits_for_as_long_as_it_may_need() -> None:
    """A container that is killed earlier loses requests that it had accepted."""
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["serve"]["stop_grace_period"]
    pods = re.findall(r"terminationGracePeriodSeconds: (\d+)", (DOCKER / "k8s" / "serve.yaml").read_text())
    commands = [
        seconds
        for path in (*DOCKER.glob("*.sh"), DOCKER / "README.md")
        for seconds in re.findall(r"(?:--stop-timeout|stop -t) (\d+)", path.read_text())
    ]
    assert len(commands) == 5
    assert len(pods) == 1
    assert min(map(int, [compose.removesuffix("s"), *pods, *commands])) >= server.GRACE_SECONDS + shutdown.KILL_SECONDS


def test_whoever_stops_training_waits_for_its_checkpoint() -> None:
    """All wait for as long as the pods' manifests do."""
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    composed = {services[name]["stop_grace_period"] for name in ("train", "train-gpu")}
    pods = [
        seconds
        for path in DOCKER.glob("k8s/train-*.yaml")
        for seconds in re.findall(r"terminationGracePeriodSeconds: (\d+)", path.read_text())
    ]
    command = re.search(r"--stop-timeout (\d+)", (DOCKER / "train.sh").read_text())
    assert command
    assert (composed, pods, command[1]) == ({"60s"}, ["60", "60"], "60")


def test_compose_publishes_on_loopback_only() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert service["profiles"]
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    (device,) = services["train-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert services["train"]["depends_on"] == {"mlflow": {"condition": "service_healthy"}}


def test_pods_that_serve_want_the_token_and_have_few_visitors() -> None:
    found = {document["kind"]: document["spec"] for name, document in manifests() if name.startswith("serve.yaml")}
    pod = found["Deployment"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (token,) = after(container["args"], "--token-file")
    assert token.startswith(mounts["token"] + "/")
    assert set(found["NetworkPolicy"]["policyTypes"]) == {"Ingress", "Egress"}
    assert found["NetworkPolicy"]["egress"] == []
    assert all(rule["from"] for rule in found["NetworkPolicy"]["ingress"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["timeoutSeconds"] > 6, "healthcheck.py waits up to 6 seconds"
