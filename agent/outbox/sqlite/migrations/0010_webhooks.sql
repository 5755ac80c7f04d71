-- What platforms sent to the webhooks. Times are UTC milliseconds.

CREATE TABLE webhook_deliveries (
    id INTEGER PRIMARY KEY,
    hook TEXT NOT NULL,
    delivery_id TEXT NOT NULL,         -- the platform's; '': it has none
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    verdict TEXT NOT NULL,             -- stored, started, ignored, refused
    reason TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    state TEXT NOT NULL                -- of the deployment, at that time
);
CREATE UNIQUE INDEX webhook_deliveries_by_id ON webhook_deliveries (hook, delivery_id) WHERE delivery_id <> '';

-- When deployments began. The end can be announced first: then `at` is NULL, and `report` is that of the end.
CREATE TABLE webhook_starts (
    id TEXT PRIMARY KEY,
    at INTEGER,
    report TEXT NOT NULL,
    noted_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX webhook_starts_by_age ON webhook_starts (noted_at);
