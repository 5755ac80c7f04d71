-- How far the APIs of platforms were read for webhooks that did not arrive. Times are UTC milliseconds.
CREATE TABLE webhook_gaps (
    hook TEXT NOT NULL,
    project TEXT NOT NULL,
    stream TEXT NOT NULL,              -- what is read: deployments, workflow runs, …
    begun INTEGER NOT NULL,            -- what ended earlier is never taken
    at INTEGER NOT NULL,               -- what is listed before this time was taken,
    open TEXT NOT NULL,                -- except these, which had not ended: a JSON list of ids
    found INTEGER NOT NULL,            -- how many missed deployments were found in all
    looked_at INTEGER,                 -- the last look without an error
    error TEXT,                        -- of the last look; NULL: none
    PRIMARY KEY (hook, project, stream)
) WITHOUT ROWID;
