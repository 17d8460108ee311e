"""The house about itself: what is pinned, what must not be in a commit, and whether the commands that people read are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def _pins(root):
    pins = {}
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def test_everything_that_can_be_installed_is_pinned(root):
    """constraints.txt has one version, inside the asked range, for each dependency of the package and of its extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [Requirement(line) for line in project["dependencies"]]
    asked += [Requirement(line) for extra in project["optional-dependencies"].values() for line in extra]
    pins = _pins(root)
    for requirement in asked:
        versions = [pin.specifier for pin in pins.get(canonicalize_name(requirement.name), [])]
        assert versions, f"{requirement.name} is not pinned"
        for version in versions:
            (exact,) = version
            assert exact.operator == "=="
            assert requirement.specifier.contains(exact.version, prereleases=True), f"{requirement} is pinned to {exact.version}"


def test_the_build_backend_is_pinned(root):
    """What builds the wheel is pinned like what runs."""
    build = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    pins = _pins(root)
    assert all(canonicalize_name(Requirement(line).name) in pins for line in build["requires"])


def test_the_version_is_the_same_everywhere(root):
    """The door, the project file and the newest entry of the change log name one version."""
    import otel_exec

    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert otel_exec.__version__ == version
    newest = re.search(r"^## (\S+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest
    assert newest[1] == version


def _private_words(root):
    """Folders and hosts of the machine at hand, and the usual shape of such folders; built from parts, so that no file has to hold them."""
    words = {f"{root}{os.sep}"}
    home = str(Path.home())
    if len(home) > 1:
        words.add(f"{home}{os.sep}")
    settings = " ".join(value for key, value in os.environ.items() if key.startswith(("PIP_", "UV_")) and key.endswith(("INDEX", "URL", "URLS")))
    settings += subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    public = {"pypi.org", "files.pythonhosted.org"}
    words |= {host for host in re.findall(r"https?://(?:[^/@\s]*@)?([^/:\s'\"]+)", settings) if host not in public}
    return words


def test_nothing_of_a_machine_is_in_the_tree(root, texts):
    """No file names a folder of somebody's machine or a host of somebody's registry."""
    words = _private_words(root)
    shapes = re.compile("(?<![\\w.])/(" + "|".join(["ro" + "ot", "ho" + r"me/\w+", "Us" + r"ers/\w+"]) + ")/")
    found = [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if shapes.search(line) or any(word in line for word in words)
    ]
    assert found == []


def test_text_files_end_in_one_newline(texts):
    """Every text file is empty or ends in exactly one newline, and uses no carriage returns."""
    wrong = [str(path) for path, text in texts.items() if text and (not text.endswith("\n") or text.endswith("\n\n") or "\r" in text)]
    assert wrong == []


def test_only_code_that_is_meant_is_left(texts):
    """No leftovers of a merge and no notes to oneself."""
    marks = re.compile("^(<<<<<<<|>>>>>>>) |\\b(TO" + "DO|FIX" + "ME|X" + "XX)\\b", re.MULTILINE)
    assert [str(path) for path, text in texts.items() if marks.search(text) and path.name != "pyproject.toml"] == []


def test_ci_runs_what_people_run(root):
    """`.ci/run` can be executed and does nothing but `make test`, with the collector built before where Go is; tests of what could be built, and of what is installed, are required."""
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert commands == [
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")/.."',
        "if command -v go > /dev/null; then",
        "  if make collector; then",
        '    export OTEL_EXEC_REQUIRE="${OTEL_EXEC_REQUIRE:+$OTEL_EXEC_REQUIRE,}collector"',
        "  else",
        '    echo ".ci/run: the Collector could not be built (see above); its tests are skipped" >&2',
        "  fi",
        "fi",
        "for name in jaeger tempo prometheus promtool; do",
        '  variable="OTEL_EXEC_${name^^}"',
        '  if [[ -n "${!variable:-}" ]] || command -v "$name" > /dev/null; then',
        '    export OTEL_EXEC_REQUIRE="${OTEL_EXEC_REQUIRE:+$OTEL_EXEC_REQUIRE,}$name"',
        "  fi",
        "done",
        "exec make test",
    ]


def test_make_without_a_target_lists_the_targets(root):
    """`make` alone prints each target that the house promises, and makes nothing."""
    done = subprocess.run(["make", "--no-print-directory"], cwd=root, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "bench", "help"):
        assert re.search(rf"^  make {target} +\w", done.stdout, re.MULTILINE), target


def test_containers_are_pinned_and_stay_on_this_machine(root):
    """Every image has a version, every port is bound to the loopback address."""
    compose = (root / "docker-compose.yml").read_text(encoding="utf-8")
    images = re.findall(r"^\s+image: (\S+)$", compose, re.MULTILINE)
    assert images
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image)] == []
    ports = re.findall(r"^\s+- \"?((?:[\d.]+:)?\d+:\d+)\"?", compose, re.MULTILINE)
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_docker_compose_takes_the_file(root):
    """`docker compose config` reads the file without a word of complaint."""
    try:
        there = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    except OSError:
        there = False
    if not there:
        pytest.skip("docker compose is not installed here")
    done = subprocess.run(["docker", "compose", "config", "--quiet"], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
