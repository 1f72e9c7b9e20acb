#!/usr/bin/python3
"""Talks to a chat room and checks that it does all that README.md says.

    client.py ws://localhost:8080/chat/c/main"""
import asyncio
import secrets
import sys

import websockets

WAIT_S = 5


class Peer:
    def __init__(self, socket):
        self.socket = socket

    async def send(self, text):
        await self.socket.send(text)

    async def hears(self, *expected):
        for text in expected:
            got = await asyncio.wait_for(self.socket.recv(), WAIT_S)
            assert got == text, f"expected {text!r}, got {got!r}"

    async def asks(self, text, *expected):
        await self.send(text)
        await self.hears(*expected)

    async def here(self):
        """Who is in the room: a question, so it also shows that nothing else was waiting."""
        await self.send("who")
        got = await asyncio.wait_for(self.socket.recv(), WAIT_S)
        assert got.startswith("* here: "), got
        return sorted(got[len("* here: "):].split(", "))

    async def is_closed(self, code):
        await asyncio.wait_for(self.socket.wait_closed(), WAIT_S)
        assert self.socket.close_code == code, (self.socket.close_code, code)


async def outside(ann):
    """Before a room is joined, and what is no command."""
    for text in ("say hi", "who", "leave"):
        await ann.asks(text, "join first")
    for text in ("", "shout hi", "say", "joinann room", "JOIN ann room"):
        await ann.asks(text, "join first" if text == "say" else "what?")
    for text in ("join", "join ann", "join ann ", "join  room", "join ann a b", "join ann room ",
                 "join " + "n" * 33 + " room", "join ann " + "r" * 33):
        await ann.asks(text, "what?")


async def talk(ann, bob, cyd, room):
    await ann.asks(f"join ann {room}", f"* welcome to {room}, ann")
    await ann.asks(f"join ann {room}", "leave first")
    await bob.asks(f"join bob {room}", f"* welcome to {room}, bob")
    await ann.hears("* bob joined")
    await cyd.asks(f"join cyd {room}x", f"* welcome to {room}x, cyd")
    assert await ann.here() == ["ann", "bob"]
    assert await cyd.here() == ["cyd"]
    await ann.asks("say hello, all  of you", "ann: hello, all  of you")
    await bob.hears("ann: hello, all  of you")
    await bob.asks("say grüß dich ☺", "bob: grüß dich ☺")
    await ann.hears("bob: grüß dich ☺")
    await ann.asks("say " + "x" * 1020, "ann: " + "x" * 1020)
    await bob.hears("ann: " + "x" * 1020)
    await ann.asks("say", "what?")
    await ann.asks("nonsense", "what?")


async def hurry(cyd):
    """Five in a second, no more; a second later it goes on. What was refused does not count."""
    await asyncio.gather(*(cyd.send(f"say {i}") for i in range(8)))
    await cyd.hears(*(f"cyd: {i}" for i in range(5)), *["slow down"] * 3)
    await asyncio.sleep(1.01)
    for i in range(5):
        await cyd.asks(f"say again {i}", f"cyd: again {i}")
    await cyd.asks("say more", "slow down")


async def leave(ann, bob, room):
    await bob.asks("leave", "* bye")
    await ann.hears("* bob left")
    await bob.asks("say hi", "join first")
    assert await ann.here() == ["ann"]
    await bob.asks(f"join b\u00f6b {room}", f"* welcome to {room}, b\u00f6b")
    await ann.hears("* b\u00f6b joined")
    await bob.socket.close()
    await ann.hears("* b\u00f6b left")
    assert await ann.here() == ["ann"]


async def misuse(address):
    for message, code in ((b"join ann room", 1003), ("say a\nbob: b", 1007), ("say \x7f", 1007),
                          ("say " + "x" * 1021, 1009)):
        async with websockets.connect(address) as socket:
            await Peer(socket).send(message)
            await Peer(socket).is_closed(code)


async def crowd(address, room):
    """More than `who` names."""
    peers = [Peer(await websockets.connect(address, max_queue=None)) for _ in range(102)]
    for i, p in enumerate(peers):
        await p.asks(f"join p{i} {room}", f"* welcome to {room}, p{i}")
    last = peers[-1]
    names = await last.here()
    assert len(names) == 101 and "..." in names, names
    await peers[0].socket.close()
    await last.hears("* p0 left")
    assert len(await last.here()) == 101
    await peers[1].socket.close()
    await last.hears("* p1 left")
    names = await last.here()
    assert len(names) == 100 and "..." not in names, names
    await asyncio.gather(*(p.socket.close() for p in peers[2:]))


async def check(address):
    room = secrets.token_hex(4)  # nobody else's
    async with websockets.connect(address) as a, websockets.connect(address) as b, \
            websockets.connect(address) as c:
        ann, bob, cyd = Peer(a), Peer(b), Peer(c)
        await outside(ann)
        await talk(ann, bob, cyd, room)
        await hurry(cyd)
        await leave(ann, bob, room)
    await misuse(address)
    await crowd(address, room + "y")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: client.py ws://HOST:PORT/PATH")
    asyncio.run(check(sys.argv[1]))
    print("ok")
