"""Where Python and the core meet at awkward moments: Ctrl-C, cancellation, exit, and fork."""

from __future__ import annotations

import json
import signal
import time

import pytest
from support import get, until

# Never comes up: keeps the caller waiting for as long as the test likes.
WAITING = """
import asyncio, json, os, sys, threading, time
import flyte, flyte.app

env = flyte.app.AppEnvironment(
    name="waiting", args=["python", "-c", "while True: pass"]
)
quick = flyte.app.AppEnvironment(name="quick", args=["python", "-m", "http.server", "8080"])
"""


@pytest.fixture
def waiting(project, home):
    yield project
    if "waiting" in home.names():
        assert home.flyte("delete", "app", "waiting").returncode == 0
        # The next test takes a process of this name for its own.
        until(lambda: not home.replicas("waiting"), 5, "its processes are gone")


def is_waiting(home):
    """Whether the app is being started, so that its caller waits."""
    return lambda: home.replicas("waiting")


@pytest.mark.parametrize(
    "call", ["flyte.serve(env)", "asyncio.run(flyte.serve.aio(env))"], ids=["blocking", "aio"]
)
def test_ctrl_c_ends_a_script_that_waits_at_once(waiting, home, call):
    waiting.write("main.py", WAITING + f"\nif __name__ == '__main__':\n    {call}\n")
    script = waiting.start()
    until(is_waiting(home), 20)
    started = time.monotonic()
    script.send_signal(signal.SIGINT)
    _, errors = script.communicate(timeout=10)
    assert time.monotonic() - started < 1
    assert script.returncode in (-signal.SIGINT, 130)
    assert errors.strip().endswith("KeyboardInterrupt")
    assert "panicked" not in errors
    # The terminal's signal is not the platform's.
    assert home.app("waiting")["name"] == "waiting"


def test_ctrl_c_ends_the_command_line_at_once(waiting, home):
    import subprocess
    import sys
    from pathlib import Path

    waiting.write("main.py", WAITING)
    command = subprocess.Popen(
        [Path(sys.executable).with_name("flyte"), "serve", "main.py", "env"],
        cwd=waiting.folder,
        env=home.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(is_waiting(home), 20)
    started = time.monotonic()
    command.send_signal(signal.SIGINT)
    out, errors = command.communicate(timeout=10)
    assert time.monotonic() - started < 1
    assert command.returncode == 130, errors
    assert out == ""
    assert "interrupted" in errors and "Traceback" not in errors


def test_ctrl_c_can_be_handled(waiting, home):
    waiting.write(
        "main.py",
        WAITING
        + """
if __name__ == "__main__":
    try:
        flyte.serve(env)
    except KeyboardInterrupt:
        print(json.dumps(flyte.serve(quick).endpoint))
""",
    )
    script = waiting.start()
    until(is_waiting(home), 20)
    script.send_signal(signal.SIGINT)
    out, errors = script.communicate(timeout=20)
    assert script.returncode == 0, errors
    assert get(json.loads(out))[0] == 200


def test_ctrl_c_ends_a_log_that_is_followed(project, home):
    project.write(
        "main.py",
        WAITING
        + """
if __name__ == "__main__":
    app = flyte.serve(quick)
    print("following", flush=True)
    for line in app.logs(follow=True, tail=0):
        pass
""",
    )
    script = project.start()
    assert script.stdout.readline() == "following\n"
    time.sleep(0.3)
    started = time.monotonic()
    script.send_signal(signal.SIGINT)
    _, errors = script.communicate(timeout=10)
    assert time.monotonic() - started < 1
    assert errors.strip().endswith("KeyboardInterrupt")


def test_cancelling_ends_the_wait_and_the_loop_goes_on(waiting):
    waiting.write(
        "main.py",
        WAITING
        + """
async def main():
    task = asyncio.create_task(flyte.serve.aio(env))
    await asyncio.sleep(1)
    started = time.monotonic()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        cancelled = time.monotonic() - started
    try:
        await asyncio.wait_for(flyte.serve.aio(env), 0.5)
    except asyncio.TimeoutError:
        timed_out = True
    app = await flyte.serve.aio(quick)
    return [cancelled < 0.5, timed_out, await app.is_active.aio()]

if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
""",
    )
    assert waiting.result() == [True, True, True]


def test_the_event_loop_turns_while_an_app_is_served(project):
    project.write(
        "main.py",
        WAITING
        + """
async def main():
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await flyte.with_servecontext(env_vars={"TURN": str(time.time())}).serve.aio(quick)
    ticker.cancel()
    return ticks

if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
""",
    )
    assert project.result() >= 5


def test_other_threads_run_while_one_serves(project):
    project.write(
        "main.py",
        WAITING
        + """
def count(ticks, over):
    while not over.wait(0.01):
        ticks.append(1)

if __name__ == "__main__":
    ticks, over = [], threading.Event()
    counter = threading.Thread(target=count, args=(ticks, over))
    counter.start()
    flyte.with_servecontext(env_vars={"TURN": str(time.time())}).serve(quick)
    over.set()
    counter.join()
    print(json.dumps(len(ticks)))
""",
    )
    assert project.result() >= 5


def test_several_at_once(project):
    project.write(
        "main.py",
        WAITING
        + """
apps = [
    flyte.app.AppEnvironment(name=f"several-{n}", args=["python", "-m", "http.server", "8080"])
    for n in range(4)
]

async def main():
    served = await asyncio.gather(*(flyte.serve.aio(app) for app in apps[:2]))
    with_threads = []
    threads = [
        threading.Thread(target=lambda env=env: with_threads.append(flyte.serve(env))) for env in apps[2:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    return sorted(app.name for app in [*served, *with_threads])

if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
""",
    )
    assert project.result() == [f"several-{n}" for n in range(4)]


def test_the_blocking_form_works_inside_an_event_loop(project):
    project.write(
        "main.py",
        WAITING
        + """
async def main():
    return flyte.serve(quick).name

if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
""",
    )
    assert project.result() == "quick"


@pytest.mark.parametrize("serve", ["flyte.serve(quick)", "asyncio.run(flyte.serve.aio(quick))"])
def test_short_processes_end_cleanly_every_time(project, serve):
    project.write("main.py", WAITING + f"\nif __name__ == '__main__':\n    {serve}\n")
    assert project.run().returncode == 0
    for _ in range(5):
        scripts = [project.start() for _ in range(2)]
        for script in scripts:
            out, errors = script.communicate(timeout=20)
            assert (script.returncode, out, errors) == (0, "", "")


def test_a_process_that_ends_amid_work_ends_cleanly(waiting, home):
    waiting.write(
        "main.py",
        WAITING
        + """
async def main():
    asyncio.ensure_future(flyte.serve.aio(env))
    await asyncio.sleep(0.5)

if __name__ == "__main__":
    threading.Thread(target=lambda: asyncio.run(flyte.serve.aio(env)), daemon=True).start()
    asyncio.run(main())
    print(1)
""",
    )
    started = time.monotonic()
    assert waiting.result() == 1
    assert time.monotonic() - started < 8


def test_a_process_ends_cleanly_under_threads_that_wait(waiting):
    waiting.write(
        "main.py",
        WAITING
        + """
def wait():
    while True:
        flyte.serve(env)

if __name__ == "__main__":
    for _ in range(6):
        threading.Thread(target=wait, daemon=True).start()
    time.sleep(1)
""",
    )
    for _ in range(3):
        done = waiting.run()
        assert done.returncode == 0, done.stderr
        assert "panicked" not in done.stderr, done.stderr


def test_after_a_fork_it_is_said_what_is_wrong(project):
    project.write(
        "main.py",
        WAITING
        + """
if __name__ == "__main__":
    flyte.serve(quick)
    child = os.fork()
    if child == 0:
        try:
            flyte.serve(quick)
        except RuntimeError as error:
            os._exit(7 if "fork" in str(error) else 8)
        os._exit(9)
    _, status = os.waitpid(child, 0)
    # The parent is none the worse.
    assert flyte.serve(quick).is_active()
    print(json.dumps(os.waitstatus_to_exitcode(status)))
""",
    )
    assert project.result() == 7


def test_a_fork_before_the_first_call_does_no_harm(project):
    project.write(
        "main.py",
        WAITING
        + """
if __name__ == "__main__":
    child = os.fork()
    flyte.serve(quick)
    if child:
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)))
""",
    )
    assert project.result() == 0


def test_a_forked_child_that_only_ends_does_not_hang(project):
    project.write(
        "main.py",
        WAITING
        + """
import multiprocessing

def work(number):
    return number * 2

if __name__ == "__main__":
    flyte.serve(quick)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        doubled = pool.map(work, [1, 2])
    child = os.fork()
    if child == 0:
        sys.exit(0)  # runs the exit handlers
    _, status = os.waitpid(child, 0)
    print(json.dumps([*doubled, os.waitstatus_to_exitcode(status)]))
""",
    )
    assert project.result() == [2, 4, 0]
