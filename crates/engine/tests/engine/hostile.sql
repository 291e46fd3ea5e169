-- refused
CREATE TABLE x (a BIGINT)
;;
-- refused
CREATE TABLE x AS SELECT * FROM letters
;;
-- refused
CREATE OR REPLACE TABLE letters AS SELECT 1
;;
-- refused
CREATE VIEW x AS SELECT * FROM letters
;;
-- refused
CREATE MATERIALIZED VIEW x AS SELECT 1
;;
-- refused
CREATE SCHEMA x
;;
-- refused
CREATE DATABASE x
;;
-- refused
CREATE FUNCTION f(BIGINT) RETURNS BIGINT RETURN $1 + 1
;;
-- refused
CREATE INDEX i ON letters (k)
;;
-- refused
CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'
;;
-- refused
CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION 's3://bucket/key'
;;
-- refused
CREATE UNBOUNDED EXTERNAL TABLE x STORED AS CSV LOCATION '/dev/zero'
;;
-- refused
DROP TABLE letters
;;
-- refused
DROP VIEW letters
;;
-- refused
DROP SCHEMA public CASCADE
;;
-- refused
ALTER TABLE letters RENAME TO other
;;
-- refused
INSERT INTO letters VALUES ('a', 1, 'x')
;;
-- refused
INSERT INTO letters SELECT * FROM letters
;;
-- refused
UPDATE letters SET v = 'x'
;;
-- refused
DELETE FROM letters
;;
-- refused
TRUNCATE TABLE letters
;;
-- refused
MERGE INTO letters USING counts ON letters.k = counts.k WHEN MATCHED THEN DELETE
;;
-- refused
COPY letters TO '/tmp/x.csv'
;;
-- refused
COPY (SELECT * FROM letters) TO 's3://bucket/x.parquet'
;;
-- refused
COPY letters FROM '/etc/passwd'
;;
-- refused
SELECT * FROM '/etc/passwd'
;;
-- refused
SELECT * FROM "/etc/passwd"
;;
-- refused
SELECT * FROM 'file:///etc/passwd'
;;
-- refused
SELECT * FROM "s3://bucket/key.parquet"
;;
-- refused
SELECT * FROM 'http://169.254.169.254/latest/meta-data'
;;
-- refused
SELECT * FROM "../../etc/passwd.csv"
;;
-- refused
SELECT * FROM read_csv('/etc/passwd')
;;
-- refused
SELECT * FROM read_parquet('/etc/passwd')
;;
-- refused
SELECT * FROM parquet_metadata('/etc/passwd')
;;
-- refused
SELECT pg_read_file('/etc/passwd')
;;
-- refused
SELECT load_extension('x')
;;
-- refused
SELECT input_file_name() FROM letters
;;
-- refused
SELECT getenv('PATH')
;;
-- refused
SELECT pg_sleep(100)
;;
-- refused
SET datafusion.execution.batch_size = 1000000000
;;
-- refused
SET TIME ZONE 'UTC'
;;
-- refused
RESET datafusion.execution.batch_size
;;
-- refused
SHOW ALL
;;
-- refused
SHOW TABLES
;;
-- refused
SHOW COLUMNS FROM letters
;;
-- refused
DESCRIBE letters
;;
-- refused
PREPARE p AS SELECT 1
;;
-- refused
EXECUTE p
;;
-- refused
DEALLOCATE p
;;
-- refused
SELECT 1; SELECT 2
;;
-- refused
SELECT 1; DROP TABLE letters
;;
-- refused
SELECT * FROM information_schema.tables
;;
-- refused
SELECT * FROM information_schema.df_settings
;;
-- refused
SELECT * FROM datafusion.public.letters
;;
-- refused
SELECT * FROM public.letters
;;
-- refused
BEGIN
;;
-- refused
START TRANSACTION
;;
-- refused
COMMIT
;;
-- refused
ROLLBACK
;;
-- refused
CALL something()
;;
-- refused
GRANT ALL ON letters TO somebody
;;
-- refused
LOCK TABLE letters
;;
-- refused
ANALYZE TABLE letters
;;
-- refused
VACUUM
;;
-- refused
KILL 1
;;
-- refused
USE other
;;
-- refused
ATTACH DATABASE 'x' AS y
;;
-- refused
EXPLAIN ANALYZE VERBOSE SELECT count(*) FROM letters
;;
-- refused
EXPLAIN DROP TABLE letters
;;
-- refused
EXPLAIN ANALYZE INSERT INTO letters VALUES ('a', 1, 'x')
;;
-- refused
EXPLAIN COPY letters TO '/tmp/x'
;;
-- refused
EXPLAIN EXPLAIN SELECT 1
;;
-- refused
WITH x AS (INSERT INTO letters VALUES ('a', 1, 'x') RETURNING k) SELECT * FROM x
;;
-- refused
WITH x AS (DELETE FROM letters RETURNING k) SELECT * FROM x
;;
-- refused
SELECT * INTO other FROM letters
;;
-- harmless
EXPLAIN SELECT * FROM letters
;;
-- harmless
EXPLAIN ANALYZE SELECT count(*) FROM letters
;;
-- refused
WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT * FROM x
;;
-- refused
WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + n FROM x CROSS JOIN x AS y) SELECT count(*) FROM x
;;
-- cut
SELECT count(*) FROM letters a, letters b, letters c, letters d WHERE a.s + b.s + c.s + d.s = -1
;;
-- cut
SELECT a.k FROM letters a CROSS JOIN letters b CROSS JOIN letters c CROSS JOIN letters d ORDER BY a.v, b.v, c.v
;;
-- cut
SELECT * FROM letters a JOIN letters b ON a.s < b.s JOIN letters c ON b.s < c.s JOIN letters d ON c.s < d.s
;;
-- cut
SELECT count(*) FROM (SELECT unnest(range(0, 2000000)) AS x) a JOIN (SELECT unnest(range(0, 2000000)) AS x) b ON a.x + b.x < 0
;;
-- cut
SELECT sum(a.x * b.x) FROM (SELECT unnest(range(0, 2000000)) AS x) a CROSS JOIN (SELECT unnest(range(0, 2000000)) AS x) b
;;
-- cut
SELECT count(DISTINCT a.x * 1000003 + b.x) FROM (SELECT unnest(range(0, 1000000)) AS x) a CROSS JOIN (SELECT unnest(range(0, 1000000)) AS x) b
;;
-- refused
SELECT count(*) FROM letters<<, letters|40>>
;;
-- refused
SELECT count(*) FROM letters a0 <<JOIN letters ON true |40>>
;;
-- refused
WITH a AS (SELECT 1 AS n), b AS (SELECT a.n FROM a, a AS z), c AS (SELECT b.n FROM b, b AS z), d AS (SELECT c.n FROM c, c AS z), e AS (SELECT d.n FROM d, d AS z), f AS (SELECT e.n FROM e, e AS z), g AS (SELECT f.n FROM f, f AS z), h AS (SELECT g.n FROM g, g AS z), i AS (SELECT h.n FROM h, h AS z), j AS (SELECT i.n FROM i, i AS z) SELECT * FROM j
;;
-- refused
SELECT 1 <<UNION ALL SELECT 1 |5000>>
;;
-- refused
SELECT 1 <<UNION SELECT 1 |100>>
;;
-- refused
SELECT <<(|10000>>1<<)|10000>>
;;
-- refused
SELECT <<(|60>>1<<)|60>>
;;
-- refused
SELECT <<abs(|100>>1<<)|100>>
;;
-- refused
SELECT <<[|1000>>1<<]|1000>>
;;
-- refused
SELECT 1<< + 1|20000>>
;;
-- refused
SELECT <<- |20000>>1
;;
-- refused
SELECT <<NOT |10000>>true
;;
-- refused
SELECT <<CASE WHEN true THEN |100>>1<< END|100>>
;;
-- refused
SELECT * FROM <<(SELECT * FROM |100>>letters<<)|100>>
;;
-- refused
SELECT k FROM letters WHERE s IN <<(SELECT s FROM letters WHERE s IN |70>>(1)<<)|70>>
;;
-- refused
SELECT 1 WHERE true<< OR 1 = 1|8000>>
;;
-- refused
SELECT 1<<::BIGINT|9000>>
;;
-- refused
SELECT 'x'<<, 'x'|50000>>
;;
-- refused
SELECT '<<x|100001>>'
;;
-- refused
SELECT <<x|50000>>
;;
-- refused
SELECT "<<a|60000>>" FROM letters
;;
-- harmless
SELECT 1 AS "<<a|1000>>"
;;
-- harmless
SELECT count(*) FROM letters WHERE s IN (1<<, 2|1000>>)
;;
-- refused
SELECT s, count(*) FROM letters GROUP BY CUBE (s, k, v, s + 1, s + 2, s + 3, s + 4, s + 5, s + 6, s + 7, s + 8, s + 9, s + 10, s + 11, s + 12, s + 13)
;;
-- refused
SELECT count(*) FROM letters GROUP BY CUBE (s, k, v, s + 1, s + 2), CUBE (s + 3, s + 4, s + 5, s + 6, s + 7)
;;
-- refused
SELECT repeat('x', 1000000000)
;;
-- refused
SELECT repeat('x', 9223372036854775807)
;;
-- refused
SELECT repeat(repeat(repeat(repeat('x', 1000), 1000), 1000), 1000)
;;
-- refused
SELECT repeat(k, 100000000) FROM letters
;;
-- refused
SELECT repeat(k, 1000000) FROM letters
;;
-- refused
SELECT k FROM letters WHERE repeat(k, 100000000) = 'x'
;;
-- refused
SELECT k FROM letters WHERE s > 5 AND length(repeat(v, 100000000)) > s
;;
-- refused
SELECT count(*) FROM letters a JOIN letters b ON repeat(a.k, 100000000) = repeat(b.k, 100000000)
;;
-- refused
SELECT k FROM letters ORDER BY repeat(k, 100000000)
;;
-- refused
SELECT count(*) FROM letters GROUP BY repeat(k, 100000000)
;;
-- refused
SELECT lpad('x', 2000000000, 'ab')
;;
-- refused
SELECT rpad(k, 2000000000) FROM letters
;;
-- refused
SELECT lpad(k, 2147483647, k) FROM letters
;;
-- refused
SELECT replace(repeat('a', 1000000), 'a', repeat('b', 1000000))
;;
-- refused
SELECT replace(repeat(k, 1000), 'a', repeat('b', 1000000)) FROM letters
;;
-- refused
SELECT regexp_replace(repeat('a', 1000000), 'a', repeat('b', 100000), 'g')
;;
-- cut
SELECT concat_ws(repeat('x', 10000000), k, k, k) FROM letters
;;
-- cut
SELECT concat(repeat('x', 16000000), k) FROM letters
;;
-- refused
WITH a AS (SELECT repeat(k, 10000) AS x FROM letters), b AS (SELECT x || x AS x FROM a), c AS (SELECT x || x AS x FROM b), d AS (SELECT x || x AS x FROM c), e AS (SELECT x || x AS x FROM d), f AS (SELECT x || x AS x FROM e), g AS (SELECT x || x AS x FROM f), h AS (SELECT x || x AS x FROM g), i AS (SELECT x || x AS x FROM h) SELECT length(x) FROM i
;;
-- refused
WITH a AS (SELECT repeat('x', 100000) AS x), b AS (SELECT x || x || x || x AS x FROM a), c AS (SELECT x || x || x || x AS x FROM b), d AS (SELECT x || x || x || x AS x FROM c), e AS (SELECT x || x || x || x AS x FROM d), f AS (SELECT x || x || x || x AS x FROM e) SELECT length(x) FROM f
;;
-- refused
SELECT array_repeat(1, 1000000000)
;;
-- refused
SELECT array_repeat(array_repeat(array_repeat(1, 1000), 1000), 1000)
;;
-- refused
SELECT array_repeat(k, 10000000) FROM letters
;;
-- refused
SELECT range(1, 10000000000)
;;
-- refused
SELECT generate_series(1, 10000000000)
;;
-- refused
SELECT generate_series(TIMESTAMP '2000-01-01', TIMESTAMP '2020-01-01', INTERVAL '1 millisecond')
;;
-- refused
SELECT range(DATE '1900-01-01', DATE '2200-01-01', INTERVAL '1 nanosecond')
;;
-- refused
SELECT array_resize([1], 1000000000, 1)
;;
-- refused
SELECT unnest(range(0, s * 1000000)) FROM letters
;;
-- refused
SELECT make_array(repeat('x', 10000000), repeat('y', 10000000))
;;
-- harmless
SELECT [repeat(k, 10000), repeat(k, 10000)] FROM letters
;;
-- refused
SELECT string_to_array(repeat('x,', 8000000), ',')
;;
-- refused
SELECT array_to_string(range(0, 1000000), repeat('x', 10000))
;;
-- refused
SELECT levenshtein(repeat('a', 10000000), repeat('b', 10000000))
;;
-- refused
SELECT array_transform([1, 2, 3], x -> x + 1)
;;
-- cut
SELECT string_agg(a.k || b.k || c.k, ',') FROM letters a, letters b, letters c
;;
-- cut
SELECT array_agg(a.k || b.k) FROM letters a, letters b, letters c
;;
-- cut
SELECT array_agg(DISTINCT a.k || b.k || c.k) FROM letters a, letters b, letters c
;;
-- cut
SELECT a.s, array_agg(a.k || b.k ORDER BY b.k) FROM letters a, letters b, letters c GROUP BY a.s
;;
-- cut
SELECT median(a.s * b.s + c.s) FROM letters a, letters b, letters c
;;
-- refused
SELECT sum(a.s) OVER () FROM letters a CROSS JOIN letters b
;;
-- cut
SELECT row_number() OVER (PARTITION BY a.v ORDER BY b.k ROWS BETWEEN 1000000000 PRECEDING AND 1000000000 FOLLOWING), sum(a.s) OVER (ORDER BY b.k ROWS BETWEEN 1000000000 PRECEDING AND 1000000000 FOLLOWING) FROM letters a CROSS JOIN letters b
;;
-- cut
SELECT lag(a.k, 1000000000, repeat('x', 1000000)) OVER (ORDER BY b.k) FROM letters a CROSS JOIN letters b
;;
-- cut
SELECT array_agg(b.k) OVER (ORDER BY a.k, b.k) FROM letters a CROSS JOIN letters b
;;
-- refused
SELECT k FROM letters WHERE regexp_like(k, '((a{1000}){1000}){1000}')
;;
-- refused
SELECT k FROM letters WHERE regexp_like(k, '(unclosed')
;;
-- refused
SELECT regexp_replace(k, '(?<name>', 'x') FROM letters
;;
-- harmless
SELECT count(*) FROM letters WHERE regexp_like(k, '(a+)+$')
;;
-- harmless
SELECT count(*) FROM letters WHERE k LIKE '%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%a%'
;;
-- refused
SELECT 1 / 0
;;
-- refused
SELECT s / (s - s) FROM letters
;;
-- refused
SELECT s % (s - s) FROM letters
;;
-- refused
SELECT CAST(k AS BIGINT) FROM letters
;;
-- refused
SELECT CAST('99999999999999999999' AS BIGINT)
;;
-- refused
SELECT CAST('2026-99-99' AS DATE)
;;
-- refused
SELECT arrow_cast(1, 'NoSuchType')
;;
-- refused
SELECT factorial(1000)
;;
-- harmless
SELECT power(10, 1000)
;;
-- harmless
SELECT 99999999999999999999999999999999999999999999999999999999999999999999999999999999999999 * 1.0::DECIMAL(38, 10)
;;
-- refused
SELECT DATE '2026-01-01' + INTERVAL '999999999 years'
;;
-- refused
SELECT E'\xff\xfe'
;;
-- refused
SELECT X'zz'
;;
-- refused
SELECT decode('zz', 'hex')
;;
-- refused
SELECT chr(99999999)
;;
-- refused
SELECT * FROM lеtters
;;
-- refused
ＳＥＬＥＣＴ 1
;;
-- refused
SELECT k FROM letters WHERE v = “x”
;;
-- refused
-- a comment and nothing else
;;
-- refused
/* a comment /* in */ a comment */
;;
-- refused
/* a comment without an end
;;
-- refused
SELECT 'a text without an end
;;
-- refused
;
;;
-- refused
SELECT
;;
-- refused
FROM
;;
-- refused
SELECT * FROM letters WHERE k = $missing
;;
-- refused
SELECT * FROM letters WHERE k = ?
;;
-- harmless
SELECT '‮', 'zero​width', '💥' FROM letters LIMIT 1
;;
-- harmless
SELECT k FROM letters LIMIT 0
;;
-- refused
SELECT k FROM letters LIMIT -1
;;
-- harmless
SELECT k FROM letters OFFSET 9223372036854775807
;;
-- harmless
SELECT version(), now() IS NOT NULL, current_date() IS NOT NULL
;;
-- harmless
SELECT repeat('x', 1000000) AS long, k FROM letters LIMIT 3
;;
-- harmless
SELECT count(*), max(length(x)) FROM (SELECT repeat('x', 1000000) AS x, k FROM letters) AS t
;;
-- harmless
SELECT count(*) FROM letters a JOIN letters b ON a.k = b.k
;;
-- harmless
SELECT row_number() OVER (ORDER BY k) AS n, lag(v, 1, 'none') OVER (ORDER BY k) AS before FROM letters
;;
-- refused
SELECT * FROM range(1000000000)
;;
-- refused
SELECT * FROM generate_series(1, 1000000000)
;;
-- cut
SELECT unnest(range(0, 1000000)), repeat('x', 1000000)
;;
-- cut
SELECT unnest(range(0, 1000000)), repeat(k, 100000) FROM letters
;;
-- cut
SELECT a.x, b.k FROM (SELECT repeat(k, 10000) AS x FROM letters) a CROSS JOIN letters b CROSS JOIN letters c
;;
-- cut
SELECT a.x || b.x FROM (SELECT repeat(k, 10000) AS x FROM letters) a CROSS JOIN (SELECT repeat(k, 10000) AS x FROM letters) b
;;
-- cut
SELECT CASE WHEN s > 50 THEN repeat('x', 16000000) ELSE repeat('y', 16000000) END FROM letters
;;
-- cut
SELECT coalesce(v, repeat('x', 16000000)) FROM letters
;;
