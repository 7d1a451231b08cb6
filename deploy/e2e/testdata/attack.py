"""Exceeds one share of a pod, or tries to, until it is ended. It writes each new
refusal that names a share, and "attacking" when it has begun."""
import re
import socket
import struct
import sys
import threading
import time

import psycopg

attack, address, dsn = sys.argv[1:4]
told = set()


def tell(text):
    for share in re.findall(r"its share of ([a-z -]+)", text):
        if share not in told:
            told.add(share)
            print("told " + share, flush=True)


def session():
    return psycopg.connect(f"host={address} {dsn}", connect_timeout=20, autocommit=True)


def half_open():
    """Silent connections, as many as there may be, and one that asks."""
    silent = []
    for _ in range(260):  # beyond 256 some are told, and beyond those none is answered
        try:
            silent.append(socket.create_connection((address, 5432), timeout=5))
        except OSError:
            break
    try:
        session().close()
    except psycopg.Error as error:
        tell(str(error))
    time.sleep(2)
    for one in silent:
        one.close()


def log_ins():
    session().close()


def statements(make):
    """Statements one after the other in one session, none of which has to succeed."""
    def run():
        with session() as connection:
            for i in range(1000):
                try:
                    connection.execute(make(i))
                except psycopg.Error as error:
                    tell(str(error))
                    if connection.closed:
                        return
    return run


def long_texts():
    """Most of a text as long as one may be, and never its end."""
    with session() as connection:
        with socket.socket(fileno=connection.fileno()) as raw:
            raw.setblocking(True)
            raw.settimeout(20)
            try:
                raw.sendall(b"Q" + struct.pack(">I", 16 << 20) + b"x" * (9 << 20))
                answer = raw.recv(4096)
            except TimeoutError:
                answer = b""
            tell(answer.decode(errors="replace"))
            raw.detach()


ways = {
    "half-open": (1, half_open),
    "log-ins": (16, log_ins),
    "parser": (16, statements(lambda i: f"SELECT {time.monotonic_ns()}, 1 IN (1{', 2' * 20000})")),
    "trail": (2, statements(lambda i: "SELECT " + ", ".join(f"{i} AS c{n}" for n in range(400)))),
    "look-ups": (16, statements(lambda i: f"SELECT * FROM nowhere{time.monotonic_ns()}")),
    "long-texts": (24, long_texts),
}


def again(work):
    while True:
        try:
            work()
        except psycopg.Error as error:
            tell(str(error))
        except OSError:
            time.sleep(0.1)


threads, work = ways[attack]
for _ in range(threads):
    threading.Thread(target=again, args=(work,), daemon=True).start()
print("attacking", flush=True)
while True:
    time.sleep(60)
