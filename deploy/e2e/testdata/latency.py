"""Measures what a connection to a database takes, and writes medians in
microseconds: of connect(2), and of a session to its first answer."""
import socket
import statistics
import sys
import time

import psycopg

address, dsn, times = sys.argv[1], sys.argv[2], int(sys.argv[3])


def connect():
    with socket.create_connection((address, 5432)):
        return time.perf_counter()


def session():
    with psycopg.connect(f"host={address} {dsn}") as connection:
        connection.execute("SELECT 1").fetchone()
        return time.perf_counter()


for name, work in {"connect": connect, "session": session}.items():
    took = []
    for _ in range(times):
        start = time.perf_counter()
        took.append(work() - start)
    print(f"{name} {statistics.median(took) * 1e6:.0f}", flush=True)
