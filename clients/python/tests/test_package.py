"""The package itself: what is generated, what the wheel has, types, and the programs of the README."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parents[1]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder with what the built wheel has, and nothing of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(HERE))
    (wheel,) = folder.glob("dstl-*.whl")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel))
    return folder / "site"


def outside(installed, **more):
    return {"cwd": str(installed.parent), "env": {**os.environ, "PYTHONPATH": str(installed), **more}}


def test_what_is_generated_is_up_to_date():
    run(sys.executable, str(HERE / "tools/generate.py"), "--check")


def test_the_package_passes_mypy_strict():
    run(sys.executable, "-m", "mypy", "--strict", "src", cwd=str(HERE))


def test_a_users_program_is_typed_by_the_installed_package(installed):
    program = HERE / "tests/program.py"
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)], capture_output=True, text=True, timeout=1800,
        cwd=str(installed.parent), env={**os.environ, "MYPYPATH": "", "PYTHONPATH": str(installed)},
    )
    found = {int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error:" in line}
    wrong = {number for number, line in enumerate(program.read_text().splitlines(), 1) if "# wrong" in line}
    assert found == wrong, checked.stdout


def test_the_programs_of_the_readme_run(installed, daemon):
    text = (HERE / "README.md").read_text()
    programs = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "connect(" in block]
    assert len(programs) == 2
    for program in programs:
        assert "/run/dstl/dstl.sock" in program
        program = program.replace("/run/dstl/dstl.sock", daemon.socket)
        first = run(sys.executable, "-c", program, **outside(installed))
        if "word-count" in program:
            assert first == "{'to': 2, 'be': 2, 'question': 1}\n"
            assert run(sys.executable, "-c", program, **outside(installed)) == first
        else:
            assert run(sys.executable, "-c", program, **outside(installed)).startswith("200\n")
    snippets = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "np.arange" in block or "client.query" in block]
    assert len(snippets) == 2
    around = (
        "import dstl\n"
        f"client = dstl.connect({daemon.socket!r})\n"
        "backend = client.open('word-count', 'count', attempt=1000)\n"
        "counts = backend.merging_state('counts', dstl.STR, dstl.SUM_I64)\n"
        "session = backend.session()\n"
    )
    assert run(sys.executable, "-c", around + "\n".join(snippets) + "\nassert len(found) == 10\n", **outside(installed)) == "2\n"


def test_a_daemon_is_shown(installed, client, backend, session, job):
    backend.value_state("names", dstl_int(), dstl_int()).put(1, 1)
    session.complete(session.checkpoint(3))
    show = [sys.executable, "-m", "dstl", "--socket", client._connection.target]
    text = run(*show, **outside(installed))
    assert f"{job} / op / 0" in text and "state names: value, 1 entries" in text and "checkpoint 3" in text
    assert "checkpoint 3 of attempt 1, 1 subtasks: restorable" in run(*show, "--job", job, **outside(installed))
    shown = json.loads(run(*show, "--json", **outside(installed)))
    assert shown["daemon"]["version"] == client.version and len(shown["backends"]) >= 1
    # A reader that has enough, as `head` does. What is printed is longer than a pipe holds.
    for number in range(300):
        backend.value_state(f"{'long' * 40}{number}", dstl_int(), dstl_int())
    few = f"{' '.join(show)} --json | head -c 10"
    shown = subprocess.run(["bash", "-o", "pipefail", "-c", few], capture_output=True, text=True, timeout=60, **outside(installed))
    assert (shown.returncode, len(shown.stdout), shown.stderr) == (0, 10, "")
    nobody = subprocess.run([*show[:-1], "/nowhere"], capture_output=True, text=True, timeout=60, **outside(installed))
    assert (nobody.returncode, nobody.stdout) == (1, "") and "no daemon serves" in nobody.stderr


def dstl_int():
    import dstl

    return dstl.INT64


def test_a_users_own_tests_find_the_fixtures(tmp_path):
    block = re.search(r"```python\n(def test_.*?)```", (HERE / "README.md").read_text(), re.S)
    (tmp_path / "test_mine.py").write_text("import dstl\n\n\n" + block.group(1))
    assert "1 passed" in run(sys.executable, "-m", "pytest", "-q", str(tmp_path), cwd=str(tmp_path))
