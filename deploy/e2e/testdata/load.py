"""Connects to the database again and again, and writes what became of it: the
name it is logged in as, or "refused", each with the time in seconds. With a
second argument it ends after as many seconds, and writes the longest time
without an answer."""
import sys
import time

import psycopg

dsn, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else float("inf")
start = last = time.monotonic()
longest = 0.0
while time.monotonic() - start < seconds:
    try:
        with psycopg.connect(dsn, connect_timeout=5) as connection:
            word = connection.execute("SELECT current_user").fetchone()[0]
    except psycopg.Error as error:
        word = "refused " + str(error).splitlines()[0]
    now = time.monotonic()
    if not word.startswith("refused"):
        longest, last = max(longest, now - last), now
    print(f"{now - start:.3f} {word}", flush=True)
    time.sleep(0.02)
print(f"longest {max(longest, time.monotonic() - last):.3f}", flush=True)
