"""Keeps one session with the database, and writes the name that it is logged in
as, again and again, until the session ends."""
import sys
import time

import psycopg

with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    while True:
        print(connection.execute("SELECT current_user").fetchone()[0], flush=True)
        time.sleep(0.1)
