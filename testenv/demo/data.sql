CREATE TABLE customers (
    id    integer PRIMARY KEY,
    name  text NOT NULL,
    email text NOT NULL,
    ssn   char(11),
    card  varchar(19)
);
CREATE TABLE orders (
    id          integer PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers,
    placed      date NOT NULL,
    total       numeric(10, 2) NOT NULL
);
INSERT INTO customers VALUES
    (1, 'Ada Byron',     'ada.byron@example.com',   '078-05-1120', '4111111111111111'),
    (2, 'Grace Brewster', 'g.brewster@example.org', '219-09-9999', '5500000000000004'),
    (3, 'Emmy Amalie',   'emmy@example.net',        '457-55-5462', '340000000000009');
INSERT INTO orders VALUES
    (100, 1, '2026-10-02', 120.50),
    (101, 1, '2026-11-04',  19.99),
    (102, 2, '2026-11-05', 310.00),
    (103, 3, '2026-11-20',  42.00);
ALTER TABLE customers OWNER TO shop_app;
ALTER TABLE orders OWNER TO shop_app;
