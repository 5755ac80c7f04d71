-- That this outbox was copied to another one, or is a copy: see agent/outbox/marks.py. At most one row.
CREATE TABLE copies (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    copy TEXT NOT NULL,                -- identifies the copy, in both outboxes
    role TEXT NOT NULL,                -- source, target
    other TEXT NOT NULL,               -- the other outbox
    complete INTEGER NOT NULL,
    progress TEXT NOT NULL             -- of a target: the last row that it has, as JSON
);
