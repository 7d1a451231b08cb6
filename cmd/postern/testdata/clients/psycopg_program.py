"""A program with psycopg 3 as one writes it: parameters, server-side preparation, COPY."""

import psycopg

with psycopg.connect("") as connection:
    for number in range(7):  # from the fifth execution on it is prepared
        (twice,) = connection.execute("SELECT %s::int * 2", (number,)).fetchone()
        assert twice == 2 * number, twice
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE drafts (id int, note text)")
        with cursor.copy("COPY drafts FROM STDIN") as copy:
            for number in range(100):
                copy.write_row((number, f"note {number}"))
        cursor.execute("SELECT count(*) FROM drafts")
        assert cursor.fetchone() == (100,)
    print(connection.execute("SELECT current_user").fetchone()[0])
