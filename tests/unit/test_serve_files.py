"""serve.yaml and the KubeRay manifest: settings that Serve or the product would reject."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from inference_server.config import parse_arguments
from inference_server.ray_app.app import FrontSettings, ReplicaSettings
from inference_server.ray_app.names import FRONT, REPLICA
from scripts.local_fleet import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = list(yaml.safe_load_all((ROOT / "docs" / "k8s" / "rayservice.yaml").read_text()))
CONFIGS = {
    "serve.yaml": (ROOT / "serve.yaml").read_text(),
    "rayservice.yaml": KUBERAY[0]["spec"]["serveConfigV2"],
}


@pytest.fixture(params=CONFIGS)
def applications(request: pytest.FixtureRequest) -> dict[str, Any]:
    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIGS[request.param]))
    return {application.name: application for application in config.applications}


def test_both_applications_are_built_from_their_settings(applications: dict[str, Any]) -> None:
    assert applications.keys() == {FRONT.application, REPLICA.application}
    for application in applications.values():
        # Serve's own words for a function that it cannot call.
        builder = import_attr(application.import_path)
        assert call_user_app_builder_with_args_if_necessary(builder, application.args)
    door = FrontSettings.model_validate(applications[FRONT.application].args)
    drawing = ReplicaSettings.model_validate(applications[REPLICA.application].args)
    parse_arguments(door.listen)
    assert parse_arguments(["--slots", str(drawing.slots), *drawing.server]).slots == drawing.slots
    assert 1 <= drawing.min_replicas <= drawing.max_replicas


@pytest.mark.parametrize("settings", [FrontSettings, ReplicaSettings])
def test_an_unknown_setting_is_an_error(settings: type[pydantic.BaseModel]) -> None:
    with pytest.raises(pydantic.ValidationError, match="slotz"):
        settings.model_validate({"slotz": 3})


def test_the_cluster_runs_the_tested_version_of_ray() -> None:
    version = importlib.metadata.version("ray")
    cluster = KUBERAY[0]["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == version
    assert f"ray[serve-grpc]=={version}" in (ROOT / "docs/k8s/rayservice.yaml").read_text()


def test_the_cluster_has_the_measured_environment() -> None:
    cluster = KUBERAY[0]["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert {e["name"]: e["value"] for e in container["env"]} == ENVIRONMENT
    page = (ROOT / "docs" / "scale-out.md").read_text()
    assert "export " + " ".join(f"{k}={v}" for k, v in ENVIRONMENT.items()) in page


def test_the_head_has_the_port_and_the_resource_of_the_front(
    applications: dict[str, Any],
) -> None:
    head = KUBERAY[0]["spec"]["rayClusterConfig"]["headGroupSpec"]
    (container,) = head["template"]["spec"]["containers"]
    (port,) = container["ports"]
    door = FrontSettings.model_validate(applications[FRONT.application].args)
    listen = parse_arguments(door.listen).network.listen
    assert listen.endswith(f":{port['containerPort']}")
    assert KUBERAY[1]["spec"]["ports"][0]["targetPort"] == port["name"]
    for resource in door.resources:
        assert f'"{resource}' in head["rayStartParams"]["resources"].replace("\\", "")


def test_the_front_starts_without_torch() -> None:
    asked = "import sys, inference_server.ray_app.front; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", asked], check=True)
