-- What persons did with a deployment: replayed or discarded it. Times are UTC milliseconds.
CREATE TABLE actions (
    deployment INTEGER NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    n INTEGER NOT NULL,
    at INTEGER NOT NULL,
    what TEXT NOT NULL,                -- replay, discard
    who TEXT NOT NULL,
    reason TEXT NOT NULL,              -- '': none was given
    PRIMARY KEY (deployment, n)
) WITHOUT ROWID;
