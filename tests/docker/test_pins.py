"""constraints.txt pins every package, both of a virtual environment and inside the images."""

import ast
import re
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.docker.conftest import ROOT, Engine

# torch is pinned in the Makefile, and its CUDA build pins its own dependencies; pip and setuptools come with the venv.
FROM_TORCH = re.compile(r"torch|triton|cuda-.+|nvidia-(?!ml-py).+")
OF_THE_VENV = {"pip", "setuptools"}
SCRIPT = "from importlib.metadata import *; print([(each.metadata['Name'], each.version) for each in distributions()])"


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def brought_by(requirements: Sequence[str]) -> set[str]:
    """The packages that these requirements install here, including transitive dependencies."""
    seen: set[tuple[str, str]] = set()
    left = [Requirement(line) for line in requirements]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            theirs = [Requirement(line) for line in requires(name) or []]
            left += [other for other in theirs if other.marker is None or other.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def test_all_that_an_environment_takes_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = brought_by([*project["dependencies"], *extras["serve"], *extras["dev"]])
    assert "setuptools" in needed, "torch requires it"
    assert sorted(name for name in needed - set(pinned()) if not FROM_TORCH.fullmatch(name)) == []


def test_all_that_the_code_imports_is_declared() -> None:
    """Imports must not rely on what other packages happen to depend on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["serve"], *extras["frechet"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    trees = [ast.parse(path.read_text()) for part in ("train", "serve") for path in (ROOT / part).glob("*.py")]
    found = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in found if isinstance(node, ast.ImportFrom) and node.module}
    ours = {"train", "serve", *sys.stdlib_module_names}
    sources = packages_distributions()
    loose = {
        name
        for name in {name.partition(".")[0] for name in names} - ours
        if not declared & set(map(canonicalize_name, sources.get(name, [])))
    }
    assert sorted(loose) == []


def test_every_torch_that_is_allowed_can_be_installed_beside_the_pins() -> None:
    assert Version(pinned()["setuptools"]) < Version("82"), "torch 2.11 and 2.12 require this"


def test_all_that_is_in_the_images_is_pinned(engine: Engine, images: dict[str, int]) -> None:
    for image in images:
        inside = ast.literal_eval(engine("run", "--rm", "--entrypoint", "python", image, "-c", SCRIPT).stdout)
        found = {(canonicalize_name(name), version) for name, version in inside}
        loose = {name for name, _ in found - set(pinned().items()) if not FROM_TORCH.fullmatch(name)}
        assert loose <= OF_THE_VENV, image
