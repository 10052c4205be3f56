-- Version 1. Times are milliseconds since 1970. A delivery's `place` is its event's `seq` << 16 | `n` (`DeliveryId::place`).

-- One row: what belongs to the store itself.
CREATE TABLE identity (
    salt      INTEGER NOT NULL,            -- first half of every id, drawn at random here
    last_seq  INTEGER NOT NULL DEFAULT 0,  -- the last `seq` given out: it outlives the event, so that none is given twice
    probed_at INTEGER                      -- when the store last proved that it can write
);

CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE targets (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- What is listed of an event. Its body lies apart, so that lists do not read it.
CREATE TABLE events (
    seq               INTEGER PRIMARY KEY,
    id                TEXT NOT NULL,
    source            TEXT NOT NULL,
    kind              TEXT NOT NULL,
    type              TEXT NOT NULL,
    subject           TEXT,
    namespace         TEXT,
    time              TEXT NOT NULL,
    timestamp         TEXT NOT NULL,
    received_at       INTEGER NOT NULL,
    traceparent       TEXT,
    replayed          INTEGER NOT NULL,
    content_type      TEXT,
    data_start        INTEGER,             -- which bytes of the body are the sender's `data`; null where it sent none
    data_len          INTEGER,
    rules             TEXT NOT NULL,       -- names as a JSON array
    deliveries        INTEGER NOT NULL,    -- how many were planned
    duplicates        INTEGER NOT NULL DEFAULT 0,
    mismatches        INTEGER NOT NULL DEFAULT 0,
    last_duplicate_at INTEGER
);

CREATE TABLE payloads (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE deliveries (
    place            INTEGER PRIMARY KEY,
    target_id        INTEGER NOT NULL,
    state            INTEGER NOT NULL,     -- 0 pending, 1 delivered, 2 dead
    cause            INTEGER,              -- of a dead letter: 0 receiver, 1 config, 2 internal
    created_at       INTEGER NOT NULL,
    due_at           INTEGER,              -- of a pending one
    settled_at       INTEGER,              -- when it became final
    first_attempt_at INTEGER,
    attempts         INTEGER NOT NULL DEFAULT 0,
    error            TEXT,
    rule             TEXT,
    template         TEXT
);
-- The queue of each lane. `created_at` makes the backlog's query an index-only one.
CREATE INDEX deliveries_pending ON deliveries (target_id, due_at, created_at) WHERE state = 0;
-- Dead letters: as they are listed, and as they are counted and pruned.
CREATE INDEX deliveries_dead ON deliveries (place, target_id) WHERE state = 2;
CREATE INDEX deliveries_died ON deliveries (target_id, settled_at) WHERE state = 2;

-- Bodies that were made from a template.
CREATE TABLE bodies (place INTEGER PRIMARY KEY, content_type TEXT NOT NULL, body BLOB NOT NULL);

CREATE TABLE attempts (
    place       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    status      INTEGER,
    error       TEXT,
    detail      TEXT,
    outcome     INTEGER NOT NULL,          -- the delivery's state after it
    cause       INTEGER,                   -- where that is dead
    retry_at    INTEGER,                   -- where that is pending
    response    BLOB NOT NULL,
    PRIMARY KEY (place, number)
) WITHOUT ROWID;

-- How events are known again. Rows outlive their events.
CREATE TABLE dedupe (
    key       BLOB PRIMARY KEY,            -- 16 bytes
    body      BLOB NOT NULL,               -- 16 bytes
    seq       INTEGER NOT NULL,            -- the event
    seen_at   INTEGER NOT NULL,            -- when it was accepted
    hashed    INTEGER NOT NULL,            -- 1: its id is a hash of the body
    suffix    INTEGER,                     -- what was put behind that id
    forget_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX dedupe_forget ON dedupe (forget_at);

CREATE TABLE rejections (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    source      TEXT,
    at          INTEGER NOT NULL,
    status      INTEGER NOT NULL,
    code        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    path        TEXT NOT NULL,
    remote      TEXT NOT NULL,
    bytes       INTEGER NOT NULL,
    accepted_as TEXT,
    retried_at  INTEGER
);
CREATE INDEX rejections_at ON rejections (at);

-- The rejections that are kept whole; `source` is '' for paths of no source.
CREATE TABLE quarantine (
    id     INTEGER PRIMARY KEY,            -- of the rejection
    source TEXT NOT NULL,
    size   INTEGER NOT NULL,
    sealed BLOB NOT NULL
);
CREATE INDEX quarantine_source ON quarantine (source, id, size);

-- What the quarantine holds by source, kept right by the triggers below: its bounds are checked on every rejection.
CREATE TABLE quarantine_totals (source TEXT PRIMARY KEY, held INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER quarantine_grows AFTER INSERT ON quarantine BEGIN
    INSERT INTO quarantine_totals (source, held, bytes) VALUES (new.source, 1, new.size)
    ON CONFLICT (source) DO UPDATE SET held = held + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER quarantine_shrinks AFTER DELETE ON quarantine BEGIN
    UPDATE quarantine_totals SET held = held - 1, bytes = bytes - old.size WHERE source = old.source;
END;
