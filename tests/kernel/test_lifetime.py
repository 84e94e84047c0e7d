"""The lifetime of an interceptor: the exceptions that it raises, and the cleanup at its end."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pyinterceptor import (
    App,
    CaptureError,
    Container,
    FlowRecord,
    PolicyError,
    Response,
    RuntimeFailure,
    open_in_thread,
    open_interceptor,
)
from pyinterceptor.capture.gateway.namespace import inside
from pyinterceptor.capture.gateway.state import state_of
from pyinterceptor.runtime import Files
from pyinterceptor.serving.records import Verdict
from tests.conftest import descriptors
from tests.starting import started


class Sandbox(Container):
    """A container without rules."""


APP = App(containers=[Sandbox])


def test_what_the_users_own_code_raises_comes_out_as_it_is(instance: str) -> None:
    async def failing() -> None:
        async with open_interceptor(APP, instance=instance) as interceptor:
            await started(interceptor, Sandbox)
            _ = 1 / 0

    async def main() -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            await failing()
        assert caught.value.__cause__ is None
        async with open_interceptor(APP, instance=instance) as interceptor:
            assert (await (await started(interceptor, Sandbox)).exec("echo again")).text == "again\n"

    trio.run(main)


def test_several_errors_of_the_users_own_stay_a_group(instance: str) -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def failing() -> None:
        async with open_interceptor(APP, instance=instance), trio.open_nursery() as nursery:
            nursery.start_soon(fail, KeyError("one"))
            nursery.start_soon(fail, ValueError("two"))

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await failing()
        assert caught.group_contains(KeyError)
        assert caught.group_contains(ValueError)

    trio.run(main)


def test_an_instance_that_runs_already_is_said_so_and_lives_on(instance: str) -> None:
    async def main() -> None:
        async with open_interceptor(APP, instance=instance) as first:
            with pytest.raises(CaptureError, match="is running already; choose another name"):
                async with open_interceptor(APP, instance=instance):
                    raise AssertionError("the second was opened")
            assert (await (await first.get_container(Sandbox)).exec("echo alive")).text == "alive\n"

    trio.run(main)


def test_a_cancelled_interceptor_ends_its_containers(instance: str) -> None:
    async def main() -> None:
        with trio.move_on_after(5) as scope:
            async with open_interceptor(APP, instance=instance) as interceptor:
                container = await started(interceptor, Sandbox)
                running = await container.start("sleep 1000")
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert await running.wait() == 128 + 9
        await running.aclose()

    trio.run(main)


def test_a_class_that_the_app_does_not_have_is_refused_by_name(instance: str) -> None:
    class Stranger(Container):
        pass

    async def main() -> None:
        async with open_interceptor(APP, instance=instance) as interceptor:
            with pytest.raises(PolicyError, match="Stranger is not a container of this app; it has: Sandbox"):
                await started(interceptor, Stranger)
            with pytest.raises(KeyError, match="does not run"):
                interceptor.count(Sandbox)

    trio.run(main)


def test_a_flow_that_is_still_with_its_handler_at_the_end_is_recorded_like_any_other(instance: str) -> None:
    class Slow(Container):
        pass

    @Slow.outbound_by_host("slow.test")
    async def never(request: Any, env: Any, ctx: Any) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        async with (
            open_interceptor(App(containers=[Slow]), instance=instance) as interceptor,
            interceptor.records(FlowRecord) as flows,
        ):
            container = await started(interceptor, Slow)
            assert (await container.exec("curl -s -m 0.5 http://slow.test/")).returncode == 28  # curl's timeout
            await container.stop(grace=0)
            assert [(flow.verdict, flow.rule) for flow in flows.take_nowait()] == [(Verdict.HANDLE, "slow.test")]

    trio.run(main)


def test_six_containers_start_side_by_side(instance: str) -> None:
    """As fast as the machine lets them: each is asked for while the others start, none waits for another's end."""

    async def main() -> None:
        async with open_interceptor(APP, instance=instance) as interceptor:
            going_on: list[int] = []

            async def get(number: int) -> None:
                going_on.append(number)
                most.append(len(going_on))
                container = await started(interceptor, Sandbox, f"n{number}")
                going_on.remove(number)
                pids.append(container.pid)

            most, pids = list[int](), list[int]()
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(get, number)
            assert len(set(pids)) == max(most) == 6
            assert len(interceptor.runs) == 6
            assert len({run.attachment.interface for run in interceptor.runs.values()}) == 6

    trio.run(main)


def test_a_stop_leaves_no_process_interface_task_or_descriptor(instance: str) -> None:
    class Slow(Container):
        pass

    begun, ends = trio.Event(), list[str]()

    @Slow.outbound_by_host("slow.test")
    async def never(request: Any, env: Any, ctx: Any) -> Response:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ends.append("handler")
        raise AssertionError

    async def main() -> None:
        async with open_interceptor(App(containers=[Slow]), instance=instance) as interceptor:
            await (await started(interceptor, Slow)).stop()  # what is made once is there now
            await trio.testing.wait_all_tasks_blocked(0.05)
            before, tasks = descriptors(), trio.lowlevel.current_statistics().tasks_living
            container = await started(interceptor, Slow)
            process = Path(f"/proc/{container.pid}")
            running = await container.start("curl -s http://slow.test/")
            await begun.wait()
            (interface,) = [run.attachment.interface for run in interceptor.runs.values()]
            assert process.exists()
            assert has_interface(instance, interface)
            await container.stop(grace=0.1)
            assert ends == ["handler"]
            assert not process.exists()
            assert not has_interface(instance, interface)
            assert await running.wait() == 128 + 9
            await running.aclose()
            assert descriptors() <= before
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            assert interceptor.runs == {}

    trio.run(main)


def has_interface(instance: str, index: int) -> bool:
    """Whether the gateway has it."""
    with open(state_of(instance).namespace) as namespace:
        return index in {number for number, _ in inside(namespace.fileno(), socket.if_nameindex)}


def test_an_image_that_cannot_be_had_holds_up_no_other_container(instance: str) -> None:
    class Missing(Container):
        image = "localhost/pyinterceptor-nonesuch"

    async def main() -> None:
        async with open_interceptor(App(containers=[Sandbox, Missing]), instance=instance) as interceptor:

            async def fail() -> None:
                with pytest.raises(RuntimeFailure, match="is not on this machine and can't be pulled"):
                    await started(interceptor, Missing)
                ended.append("image")

            async def start() -> None:
                await (await started(interceptor, Sandbox)).stop()
                ended.append("one")

            ended: list[str] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(start)
            assert sorted(ended) == ["image", "one"]
            assert interceptor.runs == {}

    trio.run(main)


def test_a_call_that_contradicts_the_running_container_is_refused_with_both_values(
    instance: str, tmp_path: Path
) -> None:
    class Changing(Container):
        """Its image changes while it runs."""

    tmp_path.chmod(0o777)
    (tmp_path / "below").mkdir()
    contradictions: list[tuple[dict[str, Any], str]] = [
        ({"user": "root"}, "it runs as nobody, not as root"),
        ({"user": "0"}, "it runs as nobody, not as 0"),
        ({"workdir": tmp_path / "below"}, f"it works in {tmp_path}, not in {tmp_path}/below"),
        ({"files": Files(tmp_path, show=(tmp_path,))}, "it has other files than "),
        ({"files": Files()}, f"it works in {tmp_path}, not in an empty /workspace"),
    ]

    async def main() -> None:
        async with open_interceptor(App(containers=[Changing]), instance=instance) as interceptor:
            first = await started(interceptor, Changing, "one", user="nobody", workdir=tmp_path)
            for asked, contradiction in contradictions:
                with pytest.raises(RuntimeFailure) as caught:
                    await started(interceptor, Changing, "one", **asked)
                assert str(caught.value).startswith(f"get Changing 'one': {contradiction}")
                assert str(caught.value).endswith("; stop it first, or give this one another name")
            uid = str(pwd.getpwnam("nobody").pw_uid)
            same: list[dict[str, Any]] = [{}, {"user": "nobody"}, {"user": uid}, {"workdir": str(tmp_path / ".")}]
            for asked in same:
                assert await started(interceptor, Changing, "one", **asked) is first
            Changing.image = "localhost/another"
            with pytest.raises(RuntimeFailure, match="it runs without an image, not in localhost/another; stop it"):
                await started(interceptor, Changing, "one")
            Changing.image = None
            await first.stop()
            again = await started(interceptor, Changing, "one", user="root", workdir=tmp_path / "below")
            assert (await again.exec("pwd")).text == f"{tmp_path}/below\n"
            assert (await again.exec("id -un")).text == "root\n"

    trio.run(main)


def test_a_working_directory_is_the_hosts_and_one_containers_at_a_time(instance: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_interceptor(APP, instance=instance) as interceptor:
            own = await started(interceptor, Sandbox, "own", user="root")
            assert (await own.exec("sh -c 'pwd; ls -A; touch mine'")).text == "/workspace\n"
            one = await started(interceptor, Sandbox, "one", user="root", workdir=tmp_path)
            await one.exec("sh -c 'pwd >written'", check=True)
            assert (tmp_path / "written").read_text() == f"{tmp_path}\n"
            for other in (str(tmp_path), tmp_path.parent):
                with pytest.raises(RuntimeFailure, match=f"container 'one' of process {os.getpid()} has {tmp_path}"):
                    await started(interceptor, Sandbox, "two", user="root", workdir=other)
            await one.stop()
            two = await started(interceptor, Sandbox, "two", user="root", workdir=tmp_path)
            assert (await two.exec("cat written")).text == f"{tmp_path}\n"

    trio.run(main)
    with open_in_thread(APP, instance=instance) as blocking:
        container = blocking.get_container(Sandbox, "one", user="root", workdir=tmp_path)
        assert container.exec("cat written").text == f"{tmp_path}\n"
