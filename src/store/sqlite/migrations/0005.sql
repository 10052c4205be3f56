-- Version 5: dedupe keys as they come in. Their own order is random, and writing each at its place in `dedupe` touches a page of its
-- own: they are moved there many at a time, in that order.
CREATE TABLE dedupe_recent (
    seq       INTEGER PRIMARY KEY,         -- the event
    key       BLOB NOT NULL,               -- the rest as in `dedupe`
    body      BLOB NOT NULL,
    seen_at   INTEGER NOT NULL,
    hashed    INTEGER NOT NULL,
    suffix    INTEGER,
    forget_at INTEGER NOT NULL
);
