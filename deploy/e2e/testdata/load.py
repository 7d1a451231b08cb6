"""Connects to the database again and again, and writes what became of it: the
name it is logged in as, or "refused", each with the time in seconds."""
import sys
import time

import psycopg

start = time.monotonic()
while True:
    try:
        with psycopg.connect(sys.argv[1], connect_timeout=5) as connection:
            word = connection.execute("SELECT current_user").fetchone()[0]
    except psycopg.Error as error:
        word = "refused " + str(error).splitlines()[0]
    print(f"{time.monotonic() - start:.3f} {word}", flush=True)
    time.sleep(0.02)
