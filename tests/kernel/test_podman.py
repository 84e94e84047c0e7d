"""Containers of the podman runtime: the rules apply to an image from its first instruction, and can't be bypassed."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from pyinterceptor import App, Container, Response, open_interceptor
from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.paths import PODMAN as PODMAN_FILES
from pyinterceptor.runtime import Finished, PodmanRuntime, execute, open_podman_container
from tests.starting import started
from tests.world import ORIGIN_V4, World
from tests.world.image import PODMAN, busybox_image, remove_image, root_archive

T = TypeVar("T")
IMAGE = f"pyinterceptor-test-{secrets.token_hex(4)}"  # another suite may run at the same time
AT_ONCE = f"{IMAGE}-at-once"
ENDING = f"{IMAGE}-ending"
ATTACK = Path(__file__).with_name("attack.c")


def import_image(name: str, command: Sequence[str], files: dict[str, bytes] | None = None) -> None:
    """Imports an image of busybox with more programs, which runs `command`."""
    written = io.BytesIO(root_archive())
    with tarfile.open(fileobj=written, mode="a") as archive:
        for path, content in (files or {}).items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    words = ", ".join(f'"{word}"' for word in command)
    importing = [*PODMAN, "import", "--change", f"CMD [{words}]", "-", name]
    done = subprocess.run(importing, input=written.getvalue(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("attack") / "attack"
    compiling = ["gcc", "-static", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(ATTACK)]
    subprocess.run(compiling, check=True)
    return program


@pytest.fixture(scope="module", autouse=True)
def images(attack: Path) -> Iterator[None]:
    assert shutil.which("podman") is not None, "apt install podman runc catatonit"
    busybox_image(IMAGE)
    import_image(AT_ONCE, ["/bin/sh", "-c", "wget -qO/first http://first.kv/instruction; cat"])
    import_image(ENDING, ["/bin/true"], {"attack": attack.read_bytes()})
    import_image(f"{IMAGE}-attack", ["/bin/cat"], {"attack": attack.read_bytes()})
    yield
    for name in (IMAGE, AT_ONCE, ENDING, f"{IMAGE}-attack"):
        remove_image(name)


def test_a_command_returns_although_it_has_left_a_process_running() -> None:
    async def scenario(container: PodmanRuntime) -> None:
        finished = await execute(container, ["sh", "-c", "sleep 1001 & echo started"])
        assert finished == Finished(0, b"started\n", b"")
        assert "sleep 1001" in (await execute(container, "ps")).text

    in_container(scenario)


def test_a_cancelled_command_ends_with_all_of_its_processes_and_no_other() -> None:
    async def scenario(container: PodmanRuntime) -> None:
        await execute(container, ["sh", "-c", "sleep 1001 >/dev/null 2>&1 &"])  # the control
        forking = (
            "setsid sleep 1002 & (setsid env -i sleep 1003 & ) ; sh -c 'trap \"\" TERM INT HUP; sleep 1004; true' &"
            " sleep 1005"
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute, container, ["sh", "-c", forking])
            listed = ""
            while not all(f"sleep {number}" in listed for number in range(1001, 1006)):
                listed = (await execute(container, "ps")).text
            nursery.cancel_scope.cancel()
        listed = (await execute(container, "ps")).text
        assert [number for number in range(1001, 1006) if f"sleep {number}" in listed] == [1001]

    in_container(scenario)
    assert ours() == []


BIND = "nc -l -p 80 >/tmp/got & until echo sent | nc $(hostname) 80; do usleep 100000; done; wait; cat /tmp/got"


def test_its_own_host_name_resolves_and_low_ports_can_be_bound(instance: str) -> None:
    class Sandbox(Container):
        """A container of the image without rules."""

        image = IMAGE
        enable_internet = False

    async def main() -> None:
        async with open_interceptor(App(containers=[Sandbox]), instance=instance) as interceptor:
            container = await started(interceptor, Sandbox, "a container")
            with trio.fail_after(120):
                assert (await container.exec(["sh", "-c", "hostname"])).text == "a-container\n"
                assert (await container.exec(["sh", "-c", BIND])).text == "sent\n"

    trio.run(main)


async def nothing(container: PodmanRuntime) -> None:
    """Leaves the container at once."""


async def no_network(netns_fd: int) -> None:
    """Does nothing: the container stays unattached."""


def in_container(scenario: Callable[[PodmanRuntime], Awaitable[T]], image: str = IMAGE) -> T:
    async def main() -> T:
        async with open_podman_container(name="a container", image=image, attach=no_network) as container:
            return await scenario(container)

    return trio.run(main)


def ours() -> list[str]:
    """Returns the existing podman containers of this module's images: another suite may have some, too."""
    form = "{{.Names}} {{.Image}}"
    listed = subprocess.run([*PODMAN, "ps", "--all", "--format", form], capture_output=True, check=True)
    found = (line.split() for line in listed.stdout.decode().splitlines())
    return [name for name, image in found if f"localhost/{IMAGE}" in image]


def test_a_command_gets_input_and_environment_and_gives_output_and_exit_code() -> None:
    async def scenario(container: PodmanRuntime) -> None:
        command = "sh -c 'cat; echo $MINE >&2; exit 3'"
        finished = await execute(container, command, input=b"in", env={"MINE": "x"})
        assert finished == Finished(3, b"in", b"x\n")
        assert (await execute(container, ["echo", "one word"])).text == "one word\n"
        assert (await execute(container, "hostname")).text == "a-container\n"
        assert (await execute(container, "cat /etc/resolv.conf")).text == "nameserver 169.254.1.1\n"
        assert (await execute(container, "nonesuch")).returncode == 127
        assert (await execute(container, "/etc/hostname")).returncode == 126
        assert (await execute(container, "sh -c 'kill -9 $$'")).returncode == 128 + signal.SIGKILL
        with pytest.raises(RuntimeFailure, match="run sh: exit code 4: oh"):
            await execute(container, "sh -c 'echo oh >&2; exit 4'", check=True)

    in_container(scenario)
    assert ours() == []


def test_a_started_process_runs_until_the_container_stops() -> None:
    async def scenario(container: PodmanRuntime) -> None:
        running = await container.start("sh -c 'echo up; exec sleep 1000'", stdout=subprocess.PIPE)
        assert running.stdout is not None
        assert await running.stdout.receive_some(3) == b"up\n"
        assert b"sleep 1000" in (await execute(container, "ps")).stdout
        assert len(ours()) == 1
        await container.stop()
        assert ours() == []
        assert await running.wait() != 0
        await running.aclose()
        with pytest.raises(RuntimeFailure, match="the container is stopped"):
            await execute(container, "true")
        await container.stop()

    in_container(scenario)


def test_the_first_instruction_of_an_image_is_under_the_rules_already(world: World, instance: str) -> None:
    asked: list[str] = []

    class AtOnce(Container):
        image = AT_ONCE
        enable_internet = False

    @AtOnce.outbound_by_host("first.kv")
    async def first(request: Any, env: Any, ctx: Any) -> Response:
        asked.append(f"{ctx.container_name} {request.url.path}")
        return Response("handled")

    async def main() -> None:
        async with open_interceptor(App(containers=[AtOnce]), instance=instance) as interceptor:
            container = await started(interceptor, AtOnce, "one")
            waiting = "until [ -s /first ]; do usleep 10000; done; cat /first"
            with trio.fail_after(20):
                assert (await container.exec(["sh", "-c", waiting])).text == "handled"
            refused = await container.exec(["nc", "-w", "5", ORIGIN_V4, "7"], input=b"past")
            assert refused.stdout == b""

    before = world.counts().syns
    trio.run(main)
    assert asked == ["one /instruction"]
    assert world.counts().syns == before
    echo = ["busybox", "nc", "-w", "5", ORIGIN_V4, "7"]
    assert subprocess.run(echo, input=b"past", capture_output=True, check=True).stdout == b"past"


def test_hostile_code_as_root_inside_gains_nothing_past_its_own_streams(attack: Path) -> None:
    async def attach(netns_fd: int) -> None:
        def give_eth0() -> None:
            inside = ["nsenter", f"--net=/proc/self/fd/{netns_fd}", "ip", "link", "add", "eth0", "up", "type", "veth"]
            subprocess.run(inside, pass_fds=(netns_fd,), check=True)

        await trio.to_thread.run_sync(give_eth0)

    async def main() -> Finished:
        async with open_podman_container(name="one", image=f"{IMAGE}-attack", attach=attach) as container:
            assert (await execute(container, "id -u")).text == "0\n"
            status = (await execute(container, "cat /proc/self/status")).text
            assert "NoNewPrivs:\t1" in status
            assert "CapBnd:\t00000000000404fb" in status  # CAPABILITIES: no NET_ADMIN, NET_RAW, SYS_ADMIN
            return await execute(container, "/attack")

    told = dict(line.split(": ") for line in trio.run(main).text.splitlines())
    assert told.pop("stream") == "done"
    assert "done" not in told.values(), told
    outside = ["unshare", "--net", "--mount", "sh", "-c", f"ip link add eth0 up type veth && {attack}"]
    direct = dict(line.split(": ") for line in subprocess.check_output(outside, text=True).splitlines())
    assert set(direct.values()) == {"done"}
    assert direct.keys() == told.keys() | {"stream"}


KILLED = """
import sys, trio
from pyinterceptor.runtime import open_podman_container
async def attach(fd): pass
async def main():
    async with open_podman_container(name="doomed", image=sys.argv[1], attach=attach) as container:
        print("up", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def test_the_container_of_a_killed_owner_is_removed_by_the_next_start_and_no_living_ones_is() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, IMAGE], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"

        async def beside(container: PodmanRuntime) -> None:
            assert len(ours()) == 2

        in_container(beside)
        left = ours()
        assert len(left) == 1
        label = ["--format", '{{index .Config.Labels "pyinterceptor.slot"}}']
        slot = subprocess.check_output([*PODMAN, "inspect", *label, *left], text=True).strip()
        assert (PODMAN_FILES / f"{slot}.files").exists()
        owner.kill()
        owner.wait()

        async def instead(container: PodmanRuntime) -> None:
            assert len(ours()) == 1
            assert ours() != left

        in_container(instead)
    assert ours() == []
    assert not (PODMAN_FILES / f"{slot}.files").exists()


@pytest.mark.parametrize("entrypoint", [[], ["/bin/sh", "-c", "echo entered; exec \"$@\"", "entry"]])
def test_a_command_given_replaces_the_images_own_and_an_image_without_one_works(entrypoint: list[str]) -> None:
    name = f"{IMAGE}-bare"
    change = [f"--change=ENTRYPOINT {json.dumps(entrypoint)}"] if entrypoint else []
    importing = [*PODMAN, "import", *change, "-", name]
    subprocess.run(importing, input=root_archive(), capture_output=True, check=True)

    async def replaced(image: str) -> tuple[str, str]:
        async with open_podman_container(name="one", image=image, attach=no_network, replaced=True) as container:
            first = (await execute(container, "cat /proc/1/cmdline")).text
            running = await container.start_inherited(["true"], None, ["echo"])  # prints the command to run
            assert await running.wait() == 0
            return first, (await execute(container, "id -u")).text

    async def main() -> None:
        for image in (name, AT_ONCE):
            first, uid = await replaced(image)
            assert "catatonit" in first
            assert uid == "0\n"
        if not entrypoint:
            async with open_podman_container(name="one", image=name, attach=no_network) as container:
                assert (await execute(container, "echo up")).text == "up\n"

    try:
        trio.run(main)
    finally:
        remove_image(name)
    assert ours() == []


def test_a_living_container_survives_a_second_owner_in_another_pid_namespace() -> None:
    other = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", KILLED, IMAGE]

    async def beside(container: PodmanRuntime) -> None:
        def second() -> None:
            with subprocess.Popen(other, stdout=subprocess.PIPE) as owner:
                assert owner.stdout is not None
                assert owner.stdout.readline() == b"up\n"
                owner.kill()

        await trio.to_thread.run_sync(second)
        assert (await execute(container, "echo alive")).text == "alive\n"

    in_container(beside)
    in_container(nothing)  # removes the second's
    assert ours() == []


@pytest.mark.parametrize("user", ["65534:65534", "4242", "nobody", None])
def test_capabilities_are_for_uid_0_alone(user: str | None) -> None:
    name = f"{IMAGE}-user"
    written = io.BytesIO(root_archive())
    with tarfile.open(fileobj=written, mode="a") as archive:
        content = b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    importing = [*PODMAN, "import", "--change", 'CMD ["/bin/cat"]', "--change", "USER nobody", "-", name]
    subprocess.run(importing, input=written.getvalue(), capture_output=True, check=True)

    async def capabilities(user: str | None) -> set[str]:
        async with open_podman_container(name="one", image=name, attach=no_network, user=user) as container:
            first = (await execute(container, "cat /proc/1/status /proc/self/status")).text
            return {line.split()[1] for line in first.splitlines() if line.startswith(("CapPrm", "CapEff", "CapAmb"))}

    async def main() -> None:
        assert await capabilities(user) == {"0" * 16}
        if user is None:
            for root in ("0:65534", "root"):
                assert await capabilities(root) == {"0" * 16, "00000000000404fb"}  # none is ambient

    try:
        trio.run(main)
    finally:
        remove_image(name)


def test_root_of_each_container_is_a_uid_of_its_own_outside() -> None:
    async def uid(container: PodmanRuntime) -> str:
        assert (await execute(container, "id -u")).text == "0\n"
        return Path(f"/proc/{container.pid}/uid_map").read_text().split()[1]

    async def main() -> None:
        async with (
            open_podman_container(name="one", image=IMAGE, attach=no_network) as one,
            open_podman_container(name="two", image=IMAGE, attach=no_network) as two,
        ):
            uids = {await uid(one), await uid(two), "0"}
            assert len(uids) == 3
            assert os.stat(f"/proc/{one.pid}").st_uid != 0

    trio.run(main)


def test_the_user_is_one_of_the_images() -> None:
    async def main() -> None:
        async with open_podman_container(name="one", image=IMAGE, attach=no_network, user="4242:4343") as container:
            assert (await execute(container, "sh -c 'id -u; id -g'")).text == "4242\n4343\n"
        with pytest.raises(RuntimeFailure, match="nonesuch"):
            async with open_podman_container(name="one", image=IMAGE, attach=no_network, user="nonesuch"):
                raise AssertionError("it was opened")

    trio.run(main)
    assert ours() == []


@pytest.mark.parametrize("target", ["../run/systemd/resolve/stub-resolv.conf", "/nowhere/resolv.conf"])
def test_resolv_conf_is_ours_also_where_the_images_is_a_link_to_nothing(target: str) -> None:
    name = f"{IMAGE}-linked"
    written = io.BytesIO(root_archive())
    with tarfile.open(fileobj=written, mode="a") as archive:
        entry = tarfile.TarInfo("etc/resolv.conf")
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        archive.addfile(entry)
    importing = [*PODMAN, "import", "--change", 'CMD ["/bin/cat"]', "-", name]
    subprocess.run(importing, input=written.getvalue(), capture_output=True, check=True)

    async def scenario(container: PodmanRuntime) -> None:
        assert (await execute(container, "cat /etc/resolv.conf")).text == "nameserver 169.254.1.1\n"

    try:
        in_container(scenario, image=name)
    finally:
        remove_image(name)


def test_an_image_that_is_not_there_is_said_so() -> None:
    with pytest.raises(RuntimeFailure, match="nonesuch/image.* is not on this machine and can't be pulled"):
        in_container(never, image="localhost/nonesuch/image")
    assert ours() == []


def test_an_image_whose_command_has_ended_is_said_so() -> None:
    async def scenario(container: PodmanRuntime) -> None:
        assert container.first is not None
        await trio.lowlevel.wait_readable(container.first)
        with pytest.raises(RuntimeFailure, match="run true: the container has ended, because its image's own command"):
            await execute(container, "true")

    in_container(scenario, image=ENDING)


def test_when_attaching_fails_nothing_of_the_image_runs(tmp_path: Path) -> None:
    async def attach(netns_fd: int) -> None:
        raise RuntimeFailure("no attachment")

    async def main() -> None:
        async with open_podman_container(name="one", image=IMAGE, attach=attach):
            raise AssertionError("it was opened")

    with pytest.raises(RuntimeFailure, match="no attachment"):
        trio.run(main)
    assert ours() == []


async def never(container: PodmanRuntime) -> None:
    raise AssertionError(f"it was opened by {os.getpid()}")
