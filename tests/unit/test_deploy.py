"""What `deploy/` says fits what the program is: settings, options, files and pinned versions; and it holds no secret."""

import inspect
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_repo.settings import Settings
from serving.commands_serve import serve

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
PLACEHOLDER = re.compile(r"\$?\$\{(\w+)(:[-?][^}]*)?\}")
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY_ID")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def docker_compose() -> list[str]:
    """The command: Docker's plug-in or the program of that name, which need no Docker engine to check the file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return [*command, "-f", str(DEPLOY / "compose.yaml")]
    reason = "neither `docker compose` nor `docker-compose` is here (apt-get install docker-compose)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def filled_in() -> dict[str, str]:
    names = re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(encoding="utf-8"), re.MULTILINE)
    here = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return {**here, **dict.fromkeys(names, "2"), "RACES_DIR": "./races", "COMPOSE_PROJECT_NAME": "pitwall"}


def test_docker_compose_accepts_the_file() -> None:
    command = [*docker_compose(), "--profile", "steps", "config"]
    done = subprocess.run(command, capture_output=True, text=True, env=filled_in(), check=False)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == {
        "pitwall", "steps", "mlflow", "redis", "postgres", "prometheus", "grafana"
    }  # fmt: skip


def test_docker_compose_refuses_to_start_without_passwords() -> None:
    environment = {name: value for name, value in filled_in().items() if "PASSWORD" not in name}
    done = subprocess.run([*docker_compose(), "config"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    assert "PASSWORD" in done.stderr


def test_it_has_every_service_and_each_is_pinned(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"pitwall", "steps", "mlflow", "redis", "postgres", "prometheus", "grafana"}
    for name, service in services.items():
        image, _, tag = service["image"].partition(":")
        if image == "pitwall":
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            continue
        assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-\w+)?", tag), f"{name}: {service['image']} is not pinned"


def test_what_waits_for_a_healthy_service_waits_for_one_that_says_so(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        needed = service.get("depends_on", {})
        assert set(needed) <= set(services), name
        for other in [other for other in needed if isinstance(needed, dict) and needed[other]["condition"] == "service_healthy"]:
            assert "test" in services[other]["healthcheck"], f"{name} waits for {other}, which has no health check"


def test_postgres_is_healthy_only_once_it_listens_for_others(compose: dict[str, Any]) -> None:
    """While it makes its databases it runs on the socket alone; asked there, it would seem ready without them."""
    asked = compose["services"]["postgres"]["healthcheck"]["test"][1]
    assert re.search(r"pg_isready .*(-h|--host) 127\.0\.0\.1", asked)


def test_only_this_machine_reaches_what_is_published(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_files_that_are_mounted_are_there_and_volumes_are_declared(compose: dict[str, Any]) -> None:
    used = {volume.partition(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])}
    for source in {source for source in used if not source.startswith("$")}:
        if source.startswith("./"):
            assert (DEPLOY / source).exists(), source
        else:
            assert source in compose["volumes"], source
    assert set(compose["volumes"]) <= used


def test_secrets_come_from_the_environment_only(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable) or variable == "PGPASSWORD":
                assert PLACEHOLDER.fullmatch(value), f"{name}: {variable}"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{name}: {variable} has a password in a URL"
    example = (DEPLOY / "env.example").read_text(encoding="utf-8")
    assert [line for line in example.splitlines() if SECRET.search(line.partition("=")[0]) and not line.endswith("=")
            and not line.startswith("#")] == []  # fmt: skip
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=REPOSITORY, check=False).returncode
    assert ignored in (0, 128), "deploy/.env can be committed"  # 128: no git repository, as in an unpacked archive


def test_variables_that_must_be_given_are_named_in_the_example() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    needed = {name for name, default in PLACEHOLDER.findall(text) if default.startswith(":?")}
    example = set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(encoding="utf-8"), re.MULTILINE))
    assert needed == {"REDIS_PASSWORD", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD"}
    assert needed <= example
    # the last one is read by compose itself
    assert example <= {*(name for name, _ in PLACEHOLDER.findall(text)), "COMPOSE_PROJECT_NAME"}


NOT_PASSED = {
    "engine": "the image has neither Java nor Spark: it computes by itself",
    "spark_master": "as engine",
    "spark_conf": "as engine",
}
"""Settings that a container does not get, and why."""

FIXED = {"home", "online_url", "registry_url", "mlflow_tracking_uri"}
"""Where things are is said by the file itself: it starts them."""


def test_settings_are_those_the_program_has(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PITWALL_")]:
        monkeypatch.delenv(name)
    defaults = Settings()
    for service in ("pitwall", "steps"):
        environment = compose["services"][service]["environment"]
        given = {name: value for name, value in environment.items() if name.startswith("PITWALL_")}
        known = {f"PITWALL_{name.upper()}" for name in Settings.model_fields} | {"PITWALL_ONLINE_PASSWORD"}
        assert set(given) <= known
        with monkeypatch.context() as filled:
            for name, value in given.items():
                filled.setenv(name, PLACEHOLDER.sub("", value))
            assert Settings().online_url == "redis://redis:6379/0"
            said = Settings().model_dump(exclude=FIXED)
        assert said == defaults.model_dump(exclude=FIXED), "what is not set in deploy/.env has its default"


def test_every_setting_of_the_environment_reaches_the_containers(compose: dict[str, Any]) -> None:
    passed = {}
    for service in ("pitwall", "steps"):
        environment = compose["services"][service]["environment"]
        passed[service] = {name for name in Settings.model_fields if f"PITWALL_{name.upper()}" in environment}
        for name in passed[service] - FIXED:
            variable = f"PITWALL_{name.upper()}"
            assert environment[variable] == f"${{{variable}:-}}", variable
    of_service = {"api_token", "serve_slots", "model_poll_s", "challenger_share", "challenger_shadow", "body_limit_kib"}
    assert passed["pitwall"] == set(Settings.model_fields) - set(NOT_PASSED)
    assert passed["steps"] == passed["pitwall"] - of_service


def test_the_command_has_the_options_that_serve_has(compose: dict[str, Any]) -> None:
    known = {f"--{name}" for name in inspect.signature(serve).parameters}
    for command in (compose["services"]["pitwall"]["command"], dockerfile_list("CMD")):
        assert command[0] == "serve"
        assert {word for word in command if word.startswith("--")} <= known


def test_the_image_is_pinned_holds_every_package_and_does_not_run_as_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    user = re.search(r"^USER (\d+)$", text, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    assert user.start() < text.index("ENTRYPOINT")
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)
    installs = re.findall(r"pip install (.*)", text)
    assert len(installs) == 2
    assert all("constraint" in line for line in installs)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages == set(re.findall(r"^COPY (\w+) \w+$", text, re.MULTILINE))
    carried = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    for source in [*packages, "constraints.txt", "pyproject.toml", "README.md"]:
        assert f"!{source}" in carried, f"{source} is not sent to the builder"
    used = set(re.findall(r"\.\[([\w,]+)\]", text)[0].split(","))
    assert used <= set(project["project"]["optional-dependencies"])


def test_torch_is_pinned_where_the_image_takes_it_from() -> None:
    pinned = re.findall(r"^torch(?:vision)?==\S+$", (REPOSITORY / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(pinned) == 2


def test_every_alert_is_explained() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    explained = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")
    names = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert names
    assert [name for name in names if f"`{name}`" not in explained] == []


def test_every_setting_of_the_service_is_documented() -> None:
    documented = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")
    missing = [name for name in Settings.model_fields if f"`PITWALL_{name.upper()}`" not in documented]
    assert missing == []


def test_documented_defaults_are_those_of_the_settings() -> None:
    rows = re.findall(
        r"^\| `PITWALL_(\w+)` \| (.*?) ?\|", (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {name.lower() for name, _ in rows} - {"online_password"} == set(Settings.model_fields)
    wrong = {}
    for name, said in rows:
        default = (
            Settings.model_fields[name.lower()].get_default(call_default_factory=True) if name != "ONLINE_PASSWORD" else None
        )
        if default is None:  # in words: what is used instead
            right = not re.search(r"`|^-?[\d.]+$", said)
        elif isinstance(default, bool):
            right = said == ("on" if default else "off")
        elif isinstance(default, int | float):
            right = float(said) == default
        else:
            right = said == f"`{'./' if isinstance(default, Path) else ''}{default}`"
        if not right:
            wrong[name] = (said, default)
    assert wrong == {}


def test_grafana_finds_its_dashboards_and_their_source(compose: dict[str, Any]) -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    providers = yaml.safe_load((provisioning / "dashboards" / "pitwall.yml").read_text(encoding="utf-8"))["providers"]
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "pitwall.json").read_text(encoding="utf-8"))
    mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert providers[0]["options"]["path"] in mounted
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {sources[0]["uid"]}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) == len({p["title"] for p in board["panels"]})


def dockerfile_list(instruction: str) -> list[str]:
    line = re.findall(rf"^{instruction} (\[.*\])$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)[-1]
    words = json.loads(line)
    assert isinstance(words, list)
    return words
