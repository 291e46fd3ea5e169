-- Items of all collections. A sort key is empty, eight bytes with the most significant first, or UTF-8 text, so
-- bytes order as keys do. Attributes are encoded as in item_store.rs.
CREATE TABLE items (
    collection TEXT NOT NULL,
    partition_key TEXT NOT NULL,
    sort_key BLOB NOT NULL,
    attributes BLOB NOT NULL,
    expires INTEGER,
    PRIMARY KEY (collection, partition_key, sort_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX items_by_expiry ON items (expires) WHERE expires IS NOT NULL;

-- Messages of all queues, in the order of sending by place. State: 0 ready to be delivered from visible_at on,
-- 1 behind the oldest message of its group, 2 dead. Times are milliseconds since the Unix epoch.
CREATE TABLE messages (
    place INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    group_key TEXT,
    state INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    sent_at INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX messages_by_id ON messages (id);
CREATE INDEX messages_by_visibility ON messages (queue, state, visible_at, place);
CREATE INDEX messages_by_group ON messages (queue, group_key, place) WHERE group_key IS NOT NULL AND state < 2;
