"""The manifest of docs/scaling.md against the schema of Kubernetes, and the program in it. No cluster runs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from facelib.distributed.cluster import Cluster, find_cluster

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def manifests():
    """The resources on the page."""
    yaml = pytest.importorskip("yaml", reason="needs_tool: yaml is not installed")
    text = re.search(r"## Kubernetes\n.*?```yaml\n(.*?)```", PAGE.read_text(), re.S)[1]
    return list(yaml.safe_load_all(text))


@pytest.mark.needs_tool("kubernetes_validate")
def test_the_manifest_fits_the_schema_and_no_key_is_unknown():
    import kubernetes_validate

    service, job = manifests()
    for resource in (service, job):
        kubernetes_validate.validate(resource, "1.30", strict=True)
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)

    job["spec"]["completionmode"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.30", strict=True)


def test_pods_service_and_number_of_workers_fit_together():
    service, job = manifests()
    pod = job["spec"]["template"]["spec"]
    environ = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}

    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert int(environ["WORKERS"]) == job["spec"]["completions"] == job["spec"]["parallelism"]


def test_the_program_in_the_manifest_sets_a_tf_config_that_train_py_reads(tmp_path):
    _, job = manifests()
    (script,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    (tmp_path / "train.py").write_text("import os\nprint(os.environ['TF_CONFIG'])\n")
    (tmp_path / "python").symlink_to(sys.executable)
    environ = {**os.environ, "WORKERS": "4", "JOB_COMPLETION_INDEX": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"]["index"] == 2
    addresses = tuple(f"train-{i}.mobilearc:23456" for i in range(4))
    assert find_cluster({"TF_CONFIG": done.stdout}) == Cluster(2, addresses)
