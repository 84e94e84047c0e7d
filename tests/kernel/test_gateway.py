"""The gateway's treatment of a container's connections and datagrams."""

import errno
import os
import socket
import struct
import time

import pytest

from pyinterceptor.capture.gateway.gateway import open_gateway
from pyinterceptor.capture.gateway.pins import links_of
from pyinterceptor.capture.gateway.state import state_of
from pyinterceptor.errors import CaptureError
from tests.kernel.container import (
    AT_ONCE,
    accept,
    answer,
    destination,
    in_trio,
    interface,
    open_container,
    plain,
    query,
)

V4, V6 = "198.51.100.7", "2001:db8:7::7"


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("port", [1, 80, 443, 5432, 65535])
@in_trio
async def test_a_connection_to_any_address_and_port_is_ours(instance: str, address: str, port: int) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as container:
            attachment = gateway.reserve(1)
            await gateway.attach(attachment, container.fd)
            with container.connect(address, port) as client, await accept(gateway.listener) as accepted:
                assert destination(accepted) == (address, port)
                assert interface(accepted) == attachment.interface
                assert plain(accepted.getpeername()[0]) in (str(attachment.v4), str(attachment.v6))
                client.sendall(b"ping")
                assert accepted.recv(4) == b"ping"
                accepted.sendall(b"pong")
                assert client.recv(4) == b"pong"


@in_trio
async def test_two_containers_are_told_apart_by_their_interfaces(instance: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as one, open_container() as two:
            attachments = gateway.reserve(1), gateway.reserve(1)
            for attachment, container in zip(attachments, (one, two), strict=True):
                await gateway.attach(attachment, container.fd)
                for address in (V4, V6):
                    with container.connect(address, 80), await accept(gateway.listener) as accepted:
                        assert interface(accepted) == attachment.interface
            assert len({attachments[0].interface, attachments[1].interface, attachments[0].v4, attachments[1].v4}) == 4


@pytest.mark.parametrize("address", [V4, V6, "169.254.1.1", "169.254.169.254"])
@in_trio
async def test_dns_to_any_unicast_address_arrives_and_is_answered_from_there(instance: str, address: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as container:
            attachment = gateway.reserve(1)
            await gateway.attach(attachment, container.fd)
            with container.udp(address) as client:
                client.connect((address, 53))  # so that the kernel drops an answer from any other address
                client.send(b"question")
                asked = await query(gateway.dns)
                assert (asked.payload, asked.interface) == (b"question", attachment.interface)
                assert asked.destination == (address, 53)
                answer(gateway.dns, asked, b"answer")
                assert client.recv(64) == b"answer"


@in_trio
async def test_the_very_first_answer_arrives(instance: str) -> None:
    """This holds right after attaching: packets would be lost if an address or link weren't ready in the kernel yet."""
    async with open_gateway(instance, v6=True) as gateway:
        for address in (V4, V6) * 30:
            with open_container() as container:
                attachment = gateway.reserve(1)
                await gateway.attach(attachment, container.fd)
                with container.udp(address) as client:
                    client.connect((address, 53))
                    client.send(b"question")
                    answer(gateway.dns, await query(gateway.dns), b"answer")
                    assert client.recv(64) == b"answer"
                await gateway.detach(attachment)


@in_trio
async def test_dns_over_tcp_to_the_resolver_address_is_ours(instance: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as container:
            await gateway.attach(gateway.reserve(1), container.fd)
            with container.connect("169.254.1.1", 53), await accept(gateway.listener) as accepted:
                assert destination(accepted) == ("169.254.1.1", 53)
            assert container.refusal("169.254.1.1", 80).error == "ConnectionRefusedError"


@pytest.mark.parametrize("address", [V4, V6])
@in_trio
async def test_other_udp_is_refused_at_once_every_time(instance: str, address: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as container:
            await gateway.attach(gateway.reserve(1), container.fd)
            for _ in range(50):  # the kernel's rate limit would allow only six such answers
                refusal = container.datagram_refusal(address, 443)
                assert refusal.error == "ConnectionRefusedError"
                assert refusal.seconds < AT_ONCE
            assert gateway.counters()["refused_protocol"] == 50


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "168.63.129.16", "fd00:ec2::254"),
        *("169.254.1.1", "127.0.0.2", "0.1.2.3", "100.96.77.77", "fd70:7969:6e74::4d"),
    ],
)
@in_trio
async def test_addresses_that_are_not_the_internets_are_refused_at_once(instance: str, address: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as container:
            await gateway.attach(gateway.reserve(1), container.fd)
            refusal = container.refusal(address, 80)
            with container.connect(V4, 80), await accept(gateway.listener) as accepted:
                assert destination(accepted) == (V4, 80)
            if address.startswith(("0.", "127.")):
                assert gateway.counters()["assigned_tcp"] == 1  # the packet never left the container
            else:
                assert (refusal.error, refusal.seconds < AT_ONCE) == ("ConnectionRefusedError", True)
                assert gateway.counters()["refused_destination"] == 1


@pytest.mark.parametrize("address", ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254"])
@in_trio
async def test_a_metadata_address_that_a_rule_names_is_the_relays_and_is_dns_for_all(
    instance: str, address: str
) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as one, open_container() as two:
            named, other = gateway.reserve(1), gateway.reserve(2)
            gateway.set_reach(named, ipv6=frozenset(), metadata=True)
            await gateway.attach(named, one.fd)
            await gateway.attach(other, two.fd)
            with one.connect(address, 80), await accept(gateway.listener) as accepted:
                assert destination(accepted) == (address, 80)
            assert two.refusal(address, 80).error == "ConnectionRefusedError"
            with two.connect(address, 53), await accept(gateway.listener) as accepted:
                assert destination(accepted) == (address, 53)
            gateway.set_reach(named, ipv6=frozenset(), metadata=False)
            gateway.set_reach(other, ipv6=frozenset(), metadata=True)
            assert one.refusal(address, 80).error == "ConnectionRefusedError"
            with two.connect(address, 80), await accept(gateway.listener) as accepted:
                assert destination(accepted) == (address, 80)


@in_trio
async def test_a_container_reaches_no_other(instance: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as one, open_container() as two:
            attachments = gateway.reserve(1), gateway.reserve(1)
            await gateway.attach(attachments[0], one.fd)
            await gateway.attach(attachments[1], two.fd)
            with two.run(lambda: socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)):
                two.connect(str(attachments[1].v4), 8080).close()
                two.connect(str(attachments[1].v6), 8080).close()
                assert one.refusal(str(attachments[1].v4), 8080).error == "ConnectionRefusedError"
                assert one.refusal(str(attachments[1].v6), 8080).error == "ConnectionRefusedError"


@in_trio
async def test_without_ipv6_on_the_host_its_connections_are_refused_at_once(instance: str) -> None:
    async with open_gateway(instance, v6=False) as gateway:
        with open_container() as container:
            await gateway.attach(gateway.reserve(1), container.fd)
            refusal = container.refusal(V6, 443)
            assert (refusal.error, refusal.seconds < AT_ONCE) == ("ConnectionRefusedError", True)
            assert gateway.counters()["refused_family"] == 1
            with container.connect(V4, 443), await accept(gateway.listener) as accepted:
                assert destination(accepted) == (V4, 443)
            gateway.set_ipv6(True)
            with container.connect(V6, 443), await accept(gateway.listener) as accepted:
                assert destination(accepted) == (V6, 443)
            gateway.set_ipv6(False)
            assert container.refusal(V6, 443).error == "ConnectionRefusedError"


@in_trio
async def test_detaching_leaves_the_container_without_a_network_and_the_seat_free(instance: str) -> None:
    async with open_gateway(instance, v6=True, container_v4="100.96.0.0/30") as gateway:
        with open_container() as container:
            first, second = gateway.reserve(1), gateway.reserve(1)
            with pytest.raises(CaptureError, match="all addresses of 100.96.0.0/30 are taken"):
                gateway.reserve(1)
            await gateway.attach(first, container.fd)
            assert container.interfaces() == {"lo", "eth0"}
            await gateway.detach(first)
            assert container.interfaces() == {"lo"}
            again = gateway.reserve(1)
            assert (again.v4, again.v6) == (first.v4, first.v6)
            assert again.interface not in (first.interface, second.interface)
            await gateway.attach(again, container.fd)
            with container.connect(V4, 80), await accept(gateway.listener) as accepted:
                assert interface(accepted) == again.interface


@in_trio
async def test_detaching_a_container_whose_namespace_is_gone_is_fine(instance: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        attachment = gateway.reserve(1)
        with open_container() as container:
            await gateway.attach(attachment, container.fd)
        await gateway.detach(attachment)
        await gateway.detach(attachment)


@in_trio
async def test_a_failed_attach_says_why_and_leaves_nothing(instance: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as container:
            attachment, other = gateway.reserve(1), gateway.reserve(1)
            await gateway.attach(attachment, container.fd)
            with pytest.raises(CaptureError, match=os.strerror(errno.EEXIST)):
                await gateway.attach(other, container.fd)  # the namespace has a default route already
            assert container.interfaces() == {"lo", "eth0"}
            with open_container() as fresh:
                await gateway.attach(other, fresh.fd)
                with fresh.connect(V4, 80), await accept(gateway.listener) as accepted:
                    assert interface(accepted) == other.interface


@in_trio
async def test_closing_leaves_no_namespace_program_mount_or_interface(instance: str) -> None:
    state = state_of(instance)
    with open_container() as container:
        async with open_gateway(instance, v6=True) as gateway:
            await gateway.attach(gateway.reserve(1), container.fd)
            namespace = state.namespace.stat().st_ino
            assert links_of(namespace) == 1
        assert links_of(namespace) == 0
        assert not state.directory.exists()
        assert container.interfaces() == {"lo"}


@in_trio
async def test_an_instance_runs_once_and_two_instances_side_by_side(instance: str) -> None:
    async with open_gateway(instance, v6=True) as one:
        with pytest.raises(CaptureError, match="is running already"):
            async with open_gateway(instance, v6=True):
                raise AssertionError("the second was opened")
        async with open_gateway(instance + "-b", v6=True) as two:
            with open_container() as left, open_container() as right:
                await one.attach(one.reserve(1), left.fd)
                await two.attach(two.reserve(1), right.fd)
                for container, gateway, port in ((left, one, 1001), (right, two, 1002)):
                    with container.connect(V4, port), await accept(gateway.listener) as accepted:
                        assert destination(accepted) == (V4, port)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a" * 65])
@in_trio
async def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(CaptureError, match="instance"):
        async with open_gateway(name, v6=True):
            raise AssertionError("it was opened")


@in_trio
async def test_attaching_takes_milliseconds(instance: str) -> None:
    """Measures processor time: other tests use the processors too. The wall clock shows that nothing is waited for."""
    used, took = [], []
    async with open_gateway(instance, v6=True) as gateway:
        for _ in range(5):
            with open_container() as container:
                attachment = gateway.reserve(1)
                start, cpu = time.monotonic(), time.process_time()
                await gateway.attach(attachment, container.fd)
                used.append(time.process_time() - cpu)
                took.append(time.monotonic() - start)
                await gateway.detach(attachment)
    assert min(used) < 0.03, used
    assert min(took) < 0.3, took


@in_trio
async def test_a_connection_that_is_dropped_ends_in_a_reset_and_one_that_is_finished_in_order(instance: str) -> None:
    async with open_gateway(instance, v6=True) as gateway:
        with open_container() as container:
            await gateway.attach(gateway.reserve(1), container.fd)
            with container.connect(V4, 80) as client:
                (await accept(gateway.listener)).close()
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            with container.connect(V4, 80) as client:
                accepted = await accept(gateway.listener)
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 0, 0))
                accepted.close()
                assert client.recv(1) == b""
