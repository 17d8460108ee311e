"""Secrets planted in every input are in no output: not in files, not in what is printed, not in what was sent, not in a process's title."""

from __future__ import annotations

import subprocess
import sys

from support.outside import clean_environment, otel_exec

SCRIPT = '''
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote
from otel_exec import deferred, executor_main, output, phase, step, versioned

@dataclass(frozen=True)
class Inner:
    client_secret: str
    rate: float = 0.5

@dataclass(frozen=True)
class Config:
    number: int
    api_key: str
    db_password: str
    inner: Inner
    options: dict
    out: str

def _titles():
    """Every process of this run, by its command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                found.append(Path("/proc", name, "cmdline").read_bytes())
            except OSError:
                pass
    return b"\\n".join(found)

def _work(config: Config) -> None:
    assert config.api_key == os.environ["PLANTED"] + "-1", "the function gets the secret itself"
    with phase("call", auth_token=config.api_key, tokens=3):
        Path(config.out, "titles").write_bytes(_titles())
    with phase("ask " + os.environ["SERVICE_TOKEN"], header=os.environ["OTEL_EXPORTER_OTLP_HEADERS"], note="got " + os.environ["SERVICE_TOKEN"]):
        pass
    with phase("log in"):
        raise ValueError("it failed with the token " + os.environ["SERVICE_TOKEN"] + " at https://u:" + quote(os.environ["PGPASSWORD"]) + "@h/")

work = deferred(_work)

@step("work/{number}", retries=1)
def one(number, access_token):
    planted = os.environ["PLANTED"]
    inner = Inner(versioned(planted + "-3"))
    return work(Config(versioned(number), planted + "-1", versioned(planted + "-2"), inner, {"private_key": planted + "-4", "ok": 1}, output()))

def _nothing(number, out):
    pass

nothing = deferred(_nothing)

@step("checked/{number}", verify=["sh", "-c", "echo verified with $SERVICE_TOKEN; echo $SERVICE_TOKEN >&2; exit 3"])
def checked(number):
    return nothing(versioned(number), output())

if __name__ == "__main__":
    executor_main(steps=[one(1, os.environ["PLANTED"] + "-5"), checked(1)], description="secrets")
'''
PLANTED = "hunter2planted"


def test_what_is_planted_is_found_nowhere(tmp_path, receiver):
    """Config fields, nested and versioned ones, bound arguments, phase metadata, headers, the endpoint's own user and password; a token of the environment in an error's own text, in a phase's name and metadata, and in what a verify command prints."""
    (tmp_path / "exp.py").write_text(SCRIPT, encoding="utf-8")
    environment = clean_environment(
        PLANTED=PLANTED,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint.replace("http://", f"http://user:{PLANTED}-6@") + f"/?api_key={PLANTED}-7",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{PLANTED}-8,x-api-key={PLANTED}-9",
        SERVICE_TOKEN=f"{PLANTED}-10",
        PGPASSWORD=f"/{PLANTED}+11'",
        OTEL_EXEC_EXIT_TIMEOUT="5",
    )
    run = subprocess.run(
        [sys.executable, "exp.py", "--prefix", "out", "--executor", "processes", "--workers", "1", "--debug", "--show-output"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 1, run.stderr.decode()
    assert b"it failed" in run.stderr
    assert b"verified with ***" in run.stderr
    assert any(span.name == "ask ***" for span in receiver.spans)
    printed = [run.stdout, run.stderr]
    for command in (["summary", "out"], ["summary", "out", "--json"], ["status", "out", "--json"], ["runs", "out"], ["metrics", "out"]):
        told = otel_exec(*command, cwd=tmp_path)
        printed += [told.stdout.encode(), told.stderr.encode()]
    planted = PLANTED.encode()
    assert not [text for text in printed if planted in text]
    found = [str(path) for path in tmp_path.rglob("*") if path.is_file() and planted in path.read_bytes()]
    assert found == []
    assert list(tmp_path.glob("out/*/*/titles"))
    for span in receiver.spans:
        assert PLANTED not in repr(span)
