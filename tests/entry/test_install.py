"""Setting up: uv is used only where it does what pip is set to, with the file of torch that pip would take."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.entry import install
from flows.entry.install import pip_settings, torch_file, uv_settings

LISTED = r"""
:env:.default-timeout='180'
:env:.find-links='/env/wheels'
global.cert='/etc/ca.crt'
global.constraint='/etc/pip/constraints.txt'
global.extra-index-url='https://one.example/simple\nhttps://two.example/simple'
global.find-links='/wheels /more'
install.index-url='https://mirror.example/simple'
list.format='columns'
"""
REPORT = json.dumps(
    {
        "install": [
            {
                "download_info": {"url": "file:///wheels/torch.whl"},
                "metadata": {"name": "torch", "version": "2.13.0+cpu"},
            }
        ]
    }
)


def test_pip_settings_are_those_of_an_install_and_the_environment_wins():
    assert pip_settings(LISTED) == {
        "default-timeout": "180",
        "find-links": "/env/wheels",
        "cert": "/etc/ca.crt",
        "constraint": "/etc/pip/constraints.txt",
        "extra-index-url": r"https://one.example/simple https://two.example/simple",
        "index-url": "https://mirror.example/simple",
    }


@pytest.mark.parametrize(
    ("settings", "environment", "arguments"),
    [
        ({}, {}, []),
        ({"find-links": "/wheels /more"}, {"UV_FIND_LINKS": "/wheels,/more"}, []),
        ({"index-url": "https://a.example/s"}, {"UV_DEFAULT_INDEX": "https://a.example/s"}, []),
        ({"extra-index-url": "https://a/s  https://b/s"}, {"UV_INDEX": "https://a/s https://b/s"}, []),
        ({"no-index": "true", "timeout": "15"}, {"UV_NO_INDEX": "1"}, []),
        ({"constraint": "a.txt b.txt", "cert": "/ca"}, {"SSL_CERT_FILE": "/ca"}, ["-c", "a.txt", "-c", "b.txt"]),
    ],
)
def test_uv_is_set_to_what_pip_is_set_to(settings, environment, arguments):
    assert uv_settings(settings) == ({"UV_INDEX_STRATEGY": "unsafe-best-match", **environment}, arguments)


@pytest.mark.parametrize("option", ["proxy", "client-cert", "trusted-host", "only-binary", "user", "no-index", "pre"])
def test_setting_without_a_counterpart_leaves_it_to_pip(option):
    assert uv_settings({option: "whatever"}) is None


@pytest.fixture
def commands(monkeypatch):
    """What would be run, with pip set to a folder of wheels and uv at hand."""
    ran, answers = [], {"config": "global.find-links='/wheels'\n", "install": REPORT}
    monkeypatch.setattr(install, "_uv", lambda: "/bin/uv")
    monkeypatch.setattr(install, "_asked", lambda *arguments: answers[arguments[0]])
    monkeypatch.setattr(install, "_status", lambda *command, **_: ran.append(command) or 0)
    monkeypatch.setattr(install, "_prepare_first_start", lambda: None)
    return ran, answers


@pytest.mark.promise(19)
def test_uv_is_given_hashes_then_the_very_file_of_torch_that_pip_would_take_then_the_project(commands, capsys):
    ran, _ = commands
    install.main(".")
    assert {command[:6] for command in ran} == {("/bin/uv", "pip", "install", "--quiet", "--python", sys.executable)}
    assert [command[6:] for command in ran] == [
        ("--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", "requirements.txt"),
        ("--only-binary", ":all:", "torch @ file:///wheels/torch.whl"),
        ("--no-deps", "--no-build-isolation", "-e", "."),
    ]
    time, disk, done = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"installed in \d+ s", done)
    assert time.endswith(" with uv, once: half a minute from a near index,")
    assert disk.startswith("and 2.4 GB of disk; ")


def test_constraints_of_pip_hold_for_what_is_on_no_list(commands):
    ran, answers = commands
    answers["config"] = "global.constraint='/etc/limits.txt'\n"
    install.main(".")
    assert [command[6:8] == ("-c", "/etc/limits.txt") for command in ran] == [False, True, True]


@pytest.mark.promise(19)
def test_pip_installs_the_same_where_uv_could_not(commands, monkeypatch, capsys):
    ran, _ = commands
    monkeypatch.setattr(install, "_status", lambda *command, **_: ran.append(command) or int("uv" in command[0]))
    install.main(".[test]")
    assert [command[0] for command in ran] == ["/bin/uv", *[sys.executable] * 3]
    assert [command[6:] for command in ran[1:]] == [
        ("--require-hashes", "--no-deps", "-r", "requirements-test.txt"),
        ("--only-binary", ":all:", "torch==2.13.0"),
        ("--no-deps", "--no-build-isolation", "-e", ".[test]"),
    ]
    said = capsys.readouterr().out
    assert "uv could not; pip tries" in said
    assert said.endswith(" s\n")


@pytest.mark.promise(19)
def test_uv_comes_from_the_list_of_hashes_too(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(install, "_asked", lambda *arguments, given: asked.update({given: arguments}))
    assert install._uv() is None
    ((given, arguments),) = asked.items()
    assert "--require-hashes" in arguments
    assert re.fullmatch(r"uv==[\d.]+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", given)


@pytest.mark.parametrize(("asked", "answer"), [("config", "global.proxy='http://p'\n"), ("install", "")])
def test_pip_installs_where_its_settings_or_its_torch_are_not_known_to_uv(commands, asked, answer, capsys):
    ran, answers = commands
    answers[asked] = answer
    install.main(".")
    assert [command[0] for command in ran] == [sys.executable] * 3
    assert "with pip, once: two minutes from a near index," in capsys.readouterr().out


def test_pips_failure_is_the_programs(commands, monkeypatch):
    monkeypatch.setattr(install, "_uv", lambda: None)
    monkeypatch.setattr(install, "_status", lambda *command, **_: 3)
    with pytest.raises(SystemExit) as ended:
        install.main(".")
    assert ended.value.code == 3


def test_first_start_is_prepared_in_both_halves_and_none_of_it_is_left(monkeypatch):
    begun = []

    class Half:
        def __init__(self, command, *, env, **_):
            begun.append((command, env["DSC_HOME"], env["PREFECT_HOME"]))

        def wait(self):
            assert len(begun) == 2  # side by side
            (Path(begun[0][1]) / "left").touch()
            return 1  # whatever was not compiled is compiled at the start

    monkeypatch.setattr(subprocess, "Popen", Half)
    install._prepare_first_start()
    assert [command[1:] for command, *_ in begun] == [
        ["-m", "flows.entry.first_start", half] for half in ("modules", "kernels")
    ]
    assert not any(Path(home).exists() for _, *homes in begun for home in homes)


def test_both_ways_take_the_same_build_of_torch(tmp_path):
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is neither on the PATH nor beside this Python")
    dry = ("install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-")
    report = install._asked(*dry, "torch==2.13.0")
    if not report:
        pytest.skip("pip finds no torch: it has no index here")
    url, version = torch_file(report)
    environment, arguments = uv_settings(pip_settings(install._asked("config", "list")))
    command = [uv, "pip", "install", "--dry-run", "--no-deps", "--target", tmp_path, *arguments, f"torch @ {url}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    assert f"torch=={version}" in done.stderr
