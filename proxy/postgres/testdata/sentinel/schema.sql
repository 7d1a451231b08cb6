-- A database whose sensitive values are made so that no part of them is anywhere
-- else. %PORT%, %PASSWORD% and %DATABASE% are the server's.

CREATE TYPE address AS (street text, code text);

CREATE TABLE users (
    id     int PRIMARY KEY,
    name   text NOT NULL,
    email  text,
    ssn    text UNIQUE,
    salary int CHECK (salary > 0),
    born   date,
    card   numeric(20),
    meta   jsonb,
    photo  bytea,
    token  uuid,
    phones text[],
    home   address,
    bio    text,
    note   varchar(40),
    loud   text GENERATED ALWAYS AS (upper(email)) STORED
);
ALTER TABLE users ALTER COLUMN bio SET STORAGE EXTERNAL;
INSERT INTO users (id, name, email, ssn, salary, born, card, meta, photo, token, phones, home, bio, note)
SELECT i, 'user ' || i, 'Zqvx0817Wkjyp' || i || '@bqzwmx.test', '9K7-W4-3V8' || i, 83650719, '1957-03-29', 5457623898234113,
       '{"iban": "GB29QZXWKJQVXWZQ"}', '\xfeedfacecafe1379', ('d9f1c0de-5e17-4abc-9def-7766a1b2c3d' || i)::uuid,
       ARRAY['+999 7654 0123', 'none'], ROW('11 Xyloquartz Row', 'QZ9 8XJ')::address, 'Vexjolq9' || (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 100) n), 'plain'
FROM generate_series(1, 3) i;

CREATE TABLE claims (id int PRIMARY KEY, ssn text REFERENCES users (ssn), amount int);
INSERT INTO claims VALUES (1, '9K7-W4-3V81', 10), (2, '9K7-W4-3V82', 20);
CREATE TABLE notes (id serial PRIMARY KEY, t text, n int);
INSERT INTO notes (t, n) VALUES ('first', 1), ('second', 2);
CREATE TABLE others (id int, email text);
INSERT INTO others VALUES (1, 'nobody@example.org');

CREATE TABLE parted (id int, region text, ssn text) PARTITION BY LIST (region);
CREATE TABLE parted_north (ssn text, region text, id int);
ALTER TABLE parted ATTACH PARTITION parted_north FOR VALUES IN ('north');
INSERT INTO parted VALUES (1, 'north', '9K7-W4-3V85');
CREATE TABLE heirs (extra text) INHERITS (users);
INSERT INTO heirs (id, name, email, extra) VALUES (9, 'heir', 'Zqvx0817Wkjyp9@bqzwmx.test', 'x');

CREATE VIEW contacts AS SELECT id, email AS contact FROM users;
CREATE VIEW contacts_again AS SELECT contact AS c, id FROM contacts;
CREATE VIEW loud_contacts AS SELECT id, upper(email) AS shout FROM users;
CREATE VIEW all_texts AS SELECT id, name AS t FROM users UNION ALL SELECT id, email FROM users;
CREATE VIEW whole AS SELECT id, users::text AS t FROM users;
CREATE MATERIALIZED VIEW kept AS SELECT id, email AS contact FROM users;
CREATE TABLE archive (id int, u users);
INSERT INTO archive SELECT id, users FROM users;
CREATE DOMAIN secret AS text;
CREATE TABLE domained (id int, ssn secret);
INSERT INTO domained VALUES (1, '9K7-W4-3V88');
ALTER TABLE domained ADD COLUMN more secret DEFAULT 'Zqvx0817Wkjyp6@bqzwmx.test';
CREATE SCHEMA hidden;
CREATE TABLE hidden.people (id int, email text);
INSERT INTO hidden.people VALUES (1, 'Zqvx0817Wkjyp7@bqzwmx.test');
CREATE TABLE "Odd ""Name""" (id int, "E-Mail" text);
INSERT INTO "Odd ""Name""" VALUES (1, 'Zqvx0817Wkjyp8@bqzwmx.test');

CREATE TABLE a_table_with_a_name_of_exactly_as_many_bytes_as_postgresql_keep (id int, ssn text);
INSERT INTO a_table_with_a_name_of_exactly_as_many_bytes_as_postgresql_keep VALUES (1, '9K7-W4-3V8x');

CREATE FUNCTION peek() RETURNS text LANGUAGE sql AS 'SELECT email FROM users WHERE id = 1';
CREATE FUNCTION peek_all() RETURNS SETOF users LANGUAGE sql AS 'SELECT * FROM users';
CREATE FUNCTION peek_cursor() RETURNS refcursor LANGUAGE plpgsql AS $$
DECLARE c refcursor := 'open_cursor';
BEGIN OPEN c FOR SELECT email, lower(email) FROM users; RETURN c; END $$;
CREATE FUNCTION peek_notice(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE '%', t; RETURN true; END $$;
CREATE FUNCTION full_contact(users) RETURNS text LANGUAGE sql AS 'SELECT $1.email || $1.ssn';
CREATE PROCEDURE tell() LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', peek(); END $$;
CREATE VIEW peeked AS SELECT id, peek() AS p FROM notes;
CREATE OPERATOR ### (LEFTARG = text, RIGHTARG = text, FUNCTION = textcat);

-- What triggers do is not seen. What they say must not be heard.
CREATE TABLE noisy (id int, how text);
CREATE FUNCTION speak() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    CASE NEW.how
    WHEN 'notice' THEN RAISE NOTICE 'address %', peek() USING DETAIL = peek(), HINT = peek();
    WHEN 'error' THEN RAISE EXCEPTION 'address %', peek() USING DETAIL = peek(), HINT = peek();
    WHEN 'code' THEN RAISE EXCEPTION '%', peek() USING ERRCODE = 'undefined_table';
    WHEN 'value as code' THEN RAISE EXCEPTION 'x' USING ERRCODE = upper(left(peek(), 5));
    WHEN 'dynamic' THEN EXECUTE format('SELECT %I', peek());
    WHEN 'names' THEN RAISE EXCEPTION 'x' USING ERRCODE = 'check_violation', COLUMN = peek(), CONSTRAINT = peek(), DATATYPE = peek(), TABLE = peek(), SCHEMA = peek();
    WHEN 'noticed names' THEN RAISE WARNING 'x' USING ERRCODE = 'check_violation', COLUMN = peek(), CONSTRAINT = peek(), DATATYPE = peek(), TABLE = peek(), SCHEMA = peek();
    WHEN 'notify' THEN PERFORM pg_notify('news', peek());
    WHEN 'setting' THEN PERFORM set_config('application_name', peek(), false);
    WHEN 'number' THEN PERFORM peek()::int;
    END CASE;
    RETURN NEW; END $$;
CREATE TRIGGER speak BEFORE INSERT ON noisy FOR EACH ROW EXECUTE FUNCTION speak();
CREATE TABLE later (id int, ssn text CONSTRAINT late UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO later VALUES (1, '9K7-W4-3V86'), (2, '9K7-W4-3V87');

CREATE EXTENSION dblink;
CREATE EXTENSION postgres_fdw;
CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '%PORT%', dbname '%DATABASE%');
CREATE USER MAPPING FOR postgres SERVER loop OPTIONS (user 'postgres', password '%PASSWORD%');
CREATE FOREIGN TABLE far_users (id int, name text, email text) SERVER loop OPTIONS (table_name 'users');

SELECT lo_from_bytea(4711, convert_to(peek(), 'UTF8'));
ANALYZE;
CHECKPOINT;
