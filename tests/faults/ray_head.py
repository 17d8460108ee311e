"""A Ray cluster whose head goes away in mid run: the run ends with one sentence and exit code 1, well before Ray's own minute; the next run, on a new cluster, goes on,
be it in a process of its own or in the same one.

python tests/faults/ray_head.py FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

HERE = Path(__file__).parent
HEAD = "import sys; from support.ray_cluster import start; print(start().get_runtime_context().gcs_address, flush=True); sys.stdin.read()"


@contextmanager
def cluster(environ):
    """A cluster in a process of its own; yields that and its address."""
    process = subprocess.Popen([sys.executable, "-c", HEAD], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        end(process, {"gcs_server", "raylet"})
        process.kill()
        process.wait()


def end(process, names):
    """End those below a process that have one of the names."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.name() in names:
                child.kill()
        except psutil.NoSuchProcess:
            continue


def twice():
    """Run the experiment until its head goes, then in the same process on the cluster whose address comes in."""
    from faults.ray_experiment import first, long

    from otel_exec import OtelExecError, run

    settings = {"executor": "ray", "prefix": os.path.join(os.environ["EVIDENCE"], "out")}
    try:
        run([long(first())], ray_address=sys.stdin.readline().strip(), **settings)
    except OtelExecError as error:
        print(error, flush=True)
    print(run([long(first())], ray_address=sys.stdin.readline().strip(), **settings).outcome, flush=True)


def main(folder):
    here = Path(folder).resolve()
    same = here / "same"
    same.mkdir()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_") and name != "RAY_ADDRESS"}
    environ |= {"PYTHONPATH": f"{HERE.parent}:{HERE.parent / 'support'}", "EVIDENCE": str(here), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "faults.ray_experiment", "--executor", "ray", "--prefix", str(here / "out")]
    with cluster(environ) as (process, address):
        driver = subprocess.Popen([*command, "--ray-address", address], cwd=here, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        other = subprocess.Popen([sys.executable, "-m", "faults.ray_head"], cwd=same, env={**environ, "EVIDENCE": str(same)}, **pipes)
        print(address, file=other.stdin, flush=True)
        while not ((here / "item.pid").exists() and (same / "item.pid").exists()):
            assert driver.poll() is None, driver.stderr.read()
            assert other.poll() is None, other.stderr.read()
            time.sleep(0.05)
        gone_s = time.monotonic()
        end(process, {"gcs_server", "raylet"})
        _, said = driver.communicate(timeout=50)
        took_s = time.monotonic() - gone_s
    assert driver.returncode == 1, (driver.returncode, said)
    assert f"otel-exec: the head node of the Ray cluster at {address} has gone" in said, said
    (here / "go").touch()
    (same / "go").touch()
    with cluster(environ) as (_, address):
        done = subprocess.run([*command, "--ray-address", address], cwd=here, env=environ, capture_output=True, text=True, timeout=200, check=False)
        sentence, outcome = other.communicate(address + "\n", timeout=200)[0].splitlines()
    assert done.returncode == 0, done.stderr
    assert sentence.startswith("the head node of the Ray cluster at"), sentence
    assert (other.returncode, outcome) == (0, "success")
    assert [(place / "first.ran").read_text() for place in (here, same)] == ["x", "x"], "what had finished was redone"
    print(f"ended {took_s:.1f} s after its cluster; the next run went on")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else twice()
