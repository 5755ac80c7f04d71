"""The manifests for Kubernetes: valid for the API, and consistent with each other and with the agent.

`make kubernetes-test` runs this, in an environment that has the API's schemas. Nothing here needs a cluster.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agent.config.file import load

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="run by make kubernetes-test")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "packaging/kubernetes"
# The oldest version that the manifests support, and newer ones.
VERSIONS = ("1.27", "1.30", "1.33")
# The fields of the Prometheus Operator's documentation that are used here, with their types.
ENDPOINT = {"port": str, "path": str, "interval": str, "scrapeTimeout": str}
DURATION = re.compile(r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$")


def documents() -> list[tuple[str, Any]]:
    return [
        (f"{path.name}: {document['kind']}", document)
        for path in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def of_kind(kind: str) -> list[Any]:
    return [document for _, document in documents() if document["kind"] == kind]


BUILT_IN = [(name, each) for name, each in documents() if each["kind"] != "ServiceMonitor"]
[POD] = [each["spec"]["template"] for each in of_kind("Deployment")]
[CONTAINER] = POD["spec"]["containers"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "document"), BUILT_IN, ids=[name for name, _ in BUILT_IN])
def test_the_api_accepts_the_manifest(name, document, version):
    """Strict: an unknown field is an error, as with ``kubectl apply --validate=strict``."""
    kubernetes_validate.validate(document, version, strict=True)


def test_the_validation_notices_a_mistake():
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_service_monitor_has_only_documented_fields():
    [monitor] = of_kind("ServiceMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"selector", "endpoints"}
    for endpoint in monitor["spec"]["endpoints"]:
        assert {key: type(value) for key, value in endpoint.items()} == ENDPOINT
        assert DURATION.match(endpoint["interval"])
        assert DURATION.match(endpoint["scrapeTimeout"])


def test_everything_that_selects_pods_selects_the_agents():
    labels = POD["metadata"]["labels"].items()
    selectors = [
        *(each["spec"]["selector"]["matchLabels"] for each in of_kind("Deployment") + of_kind("PodDisruptionBudget")),
        *(each["spec"]["selector"] for each in of_kind("Service")),
        *(each["spec"]["podSelector"]["matchLabels"] for each in of_kind("NetworkPolicy")),
        *(each["labelSelector"]["matchLabels"] for each in POD["spec"]["topologySpreadConstraints"]),
    ]
    assert len(selectors) == 6
    assert all(selector.items() <= labels for selector in selectors)


def test_the_service_monitor_selects_exactly_the_service_for_monitoring():
    [monitor] = of_kind("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    chosen = [each for each in of_kind("Service") if wanted <= each["metadata"]["labels"].items()]
    [service] = chosen
    assert {port["name"] for port in service["spec"]["ports"]} == {
        each["port"] for each in monitor["spec"]["endpoints"]
    }


def test_probes_services_and_policies_use_ports_of_the_container():
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    probes = [CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert [probe["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]
    assert {probe["port"] for probe in probes} == {"monitoring"}
    served = [port for each in of_kind("Service") for port in each["spec"]["ports"]]
    assert {port["targetPort"]: port["port"] for port in served} == ports
    [policy] = of_kind("NetworkPolicy")
    opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert opened == set(ports)


def test_the_configuration_listens_where_the_pod_expects_it(tmp_path, monkeypatch):
    """The agent itself loads it, with the secrets as files as the pod has them."""
    [config_map] = of_kind("ConfigMap")
    [secret] = of_kind("Secret")
    for name, value in secret["stringData"].items():
        (tmp_path / name).write_text(value)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    file = tmp_path / "config.toml"
    file.write_text(config_map["data"]["config.toml"])
    settings = load(file)
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    assert settings.monitoring is not None
    assert settings.intake is not None
    assert (settings.monitoring.port, settings.intake.address.port) == (ports["monitoring"], ports["intake"])
    assert settings.postgresql is not None and settings.postgresql.password is not None
    assert settings.postgresql.password.reveal() == "replace-me"
    assert settings.web is None
    assert settings.spool is None
    mounts = {each["mountPath"] for each in CONTAINER["volumeMounts"] if not each.get("readOnly")}
    assert mounts == {str(settings.outbox.parent), "/tmp"}


def test_the_pod_has_no_rights_that_it_does_not_need():
    security = POD["spec"]["securityContext"] | CONTAINER["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_secrets_are_files_and_not_in_the_environment():
    assert not any("valueFrom" in each for each in CONTAINER["env"])
    [volume] = [each["secret"] for each in POD["spec"]["volumes"] if "secret" in each]
    [secret] = of_kind("Secret")
    assert volume["secretName"] == secret["metadata"]["name"]
    assert volume["defaultMode"] == 0o440


def test_an_agent_has_more_time_to_stop_than_it_takes():
    from agent.daemon.service import STOP_S

    assert POD["spec"]["terminationGracePeriodSeconds"] > STOP_S


def test_user_folders_and_variables_are_those_of_the_image():
    text = (ROOT / "packaging/container/Containerfile").read_text()
    assert f"USER {POD['spec']['securityContext']['runAsUser']}:" in text
    [variable] = CONTAINER["env"]
    assert f"{variable['name']}={variable['value']}" in text
    command = tomllib.loads("args = " + text.rpartition("CMD ")[2])["args"]
    assert command == CONTAINER["args"]


def test_the_example_of_a_secret_has_a_value_for_each_credential_that_the_documentation_names():
    [secret] = of_kind("Secret")
    assert set(secret["stringData"]) == {"hivel-token", "jenkins-token", "intake-token", "outbox-password"}
    assert set(secret["stringData"].values()) == {"replace-me"}
