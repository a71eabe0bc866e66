"""What waits at a router that is told to end, or for a model that nobody can call any more."""

import asyncio
from pathlib import Path

import msgspec

import sim_process
from gates import BODY, VIEW, running
from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.front import MAX_BUFFERED


async def test_a_router_that_ends_serves_what_waits_and_what_its_connections_bring(
    tmp_path: Path,
) -> None:
    flags = ("--ttft-ms", "1", "--tokens-per-second", "500")
    with sim_process.running(tmp_path, *flags, guard="") as sim:
        async with running(tmp_path) as one:
            waiting = await one.held()
            one.gate.end()
            one.engine(sim.url)
            assert (await waiting).status_code == 200
            last = await one.client.post("/v1/chat/completions", json=BODY)
            assert last.status_code == 200
            assert last.headers["connection"] == "close"


async def test_a_router_that_ends_is_not_quiet_while_a_request_comes_or_an_answer_has_just_ended(
    tmp_path: Path,
) -> None:
    flags = ("--ttft-ms", "300", "--tokens-per-second", "500")
    with sim_process.running(tmp_path, *flags, guard="") as sim:
        async with running(tmp_path) as one:
            one.engine(sim.url)
            body = msgspec.json.encode(BODY)
            head = f"authorization: Bearer sk\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", one.client.base_url.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + head + body[:9])
            while not any(front.receiving for front in one.gate.fronts):
                await asyncio.sleep(0.005)
            one.gate.end()
            assert not one.gate.quiet(0.0), "half of a request is here"
            writer.write(body[9:])
            while not one.gate.live:
                await asyncio.sleep(0.005)
            one.gate.heard_at -= 1000.0  # as if its answer took so long
            assert b"200 OK" in await reader.readline()
            while one.gate.live:
                await asyncio.sleep(0.005)
            assert one.gate.quiet(0.0)
            assert not one.gate.quiet(60.0), "its caller may ask again"
            writer.close()
            await writer.wait_closed()


async def test_a_router_that_stops_refuses_what_waits(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        waiting = await one.held()
        one.gate.stop()
        answer = await waiting
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")


async def test_who_waits_for_a_model_that_lost_its_name_is_told_at_once(tmp_path: Path) -> None:
    older = ModelView(deployment="t/older", owner="t", name="m", created=1.0)
    for gone in ((msgspec.structs.replace(VIEW, valid=False),), (VIEW, older)):
        async with running(tmp_path) as one:
            waiting = await one.held()
            one.world(*gone)
            answer = await waiting
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_refusal_of_half_a_request_says_when_to_ask_again(tmp_path: Path) -> None:
    async with running(tmp_path) as one:
        one.gate.buffered = MAX_BUFFERED
        answer = await one.client.post("/v1/chat/completions", json=BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "overloaded"
