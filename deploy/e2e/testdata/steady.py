"""Does an application's work: sessions with some statements each, all of which have
to succeed. It writes what statements took, in microseconds."""
import sys
import time

import psycopg

dsn, sessions = sys.argv[1], int(sys.argv[2])
took = []
for _ in range(sessions):
    with psycopg.connect(dsn, connect_timeout=30) as connection:
        for _ in range(20):
            start = time.perf_counter()
            connection.execute("SELECT name, ssn FROM customers WHERE id = 7").fetchone()
            took.append((time.perf_counter() - start) * 1e6)
took.sort()
print(f"p50 {took[len(took) // 2]:.0f} p99 {took[len(took) * 99 // 100]:.0f}")
