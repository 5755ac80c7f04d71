-- The outbox from version 6 on. Files of versions 1 to 5 are copied into a new one: see upgrade.py.
-- Times are UTC milliseconds.

-- Each long name is stored once.
CREATE TABLE projects (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,            -- jenkins, github_actions, …; '' where only the id of a deployment is known
    scope TEXT NOT NULL,               -- the controller, the organisation
    name TEXT NOT NULL,                -- the full name of the job
    UNIQUE (provider, scope, name)
);
-- A renamed or moved job: its builds may be stored under a former name.
CREATE TABLE former_names (
    project_id INTEGER NOT NULL REFERENCES projects (id),
    former_id INTEGER NOT NULL REFERENCES projects (id),
    PRIMARY KEY (project_id, former_id)
) WITHOUT ROWID;

-- What sources reported about a run, each statement once. The facts of a build are deleted together.
CREATE TABLE facts (
    id INTEGER PRIMARY KEY,
    project_id INTEGER NOT NULL,       -- no foreign key: it would slow down each enqueue, and no project is deleted
    run TEXT NOT NULL,                 -- Jenkins' number, or the run id
    attempt INTEGER NOT NULL,
    source TEXT NOT NULL,              -- poller, backfill, emit, intake, spool
    kind TEXT NOT NULL,                -- seen, final, gone, report, unreadable
    received_at INTEGER NOT NULL,      -- by the controller's clock
    word INTEGER NOT NULL,             -- the identity of the fact
    started_at INTEGER,                -- exact if it comes from a poll
    principal TEXT NOT NULL,           -- the team whose token the report had; usually empty
    body TEXT                          -- JSON of a Build or a Report
);
CREATE INDEX facts_of_run ON facts (project_id, run);

CREATE TABLE deployments (
    id INTEGER PRIMARY KEY,
    project_id INTEGER NOT NULL,
    run TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    build_started_at INTEGER,          -- NULL: same as started_at
    build_ended_at INTEGER,            -- NULL: same as ended_at
    known INTEGER NOT NULL,            -- 1: a poll has seen the build, and its start is exact
    scope TEXT NOT NULL,               -- whole, stage, rule
    stage TEXT,
    said_environment TEXT,
    names TEXT,                        -- JSON: all names of its part; NULL: only scope, stage, said_environment
    anchor INTEGER NOT NULL,           -- column word of its first fact
    deployment_id TEXT UNIQUE,         -- NULL while it is held
    state TEXT NOT NULL,
    revision INTEGER NOT NULL,
    sent_revision INTEGER,             -- the one that Hivel has; 0: unknown
    status TEXT NOT NULL,
    environment TEXT,
    repo_url TEXT,
    branch TEXT,
    commit_hash TEXT,
    first_commit_at INTEGER,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    build_number TEXT,                 -- NULL: same as run
    pr_number TEXT,
    pr_numbers TEXT,                   -- JSON
    image TEXT,
    logs_url TEXT,
    problem TEXT,                      -- why no event can be created
    created_at INTEGER NOT NULL,
    held_since INTEGER,
    next_attempt_at INTEGER NOT NULL,  -- only used while pending
    attempts INTEGER NOT NULL DEFAULT 0,
    settled_at INTEGER,                -- when it was delivered, failed or discarded
    reason TEXT                        -- why it is in this state
);
CREATE INDEX deployments_of_run ON deployments (project_id, run);
-- One index for claims and for lists by state: each index costs one page write for each enqueue.
CREATE INDEX deployments_by_state ON deployments (state, id, next_attempt_at);

-- Failed attempts: the first and the last 20 are kept. A success and the number of attempts are in the deployment.
CREATE TABLE attempts (
    deployment INTEGER NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    n INTEGER NOT NULL,
    at INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    http_status INTEGER,               -- NULL: there was no answer
    verdict TEXT NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (deployment, n)
) WITHOUT ROWID;

-- Ids of deleted deployments, about 35 bytes each, so that they are not assigned again.
CREATE TABLE forgotten (
    id_hash BLOB PRIMARY KEY,          -- hash of the deployment_id
    started_at INTEGER NOT NULL,       -- start of the build
    day INTEGER NOT NULL               -- day of the deletion, in days since 1970
) WITHOUT ROWID;

-- Counters, because counting a million rows takes time: the delivered rows, and the unused row ids below the highest
-- one. Held, failed and discarded rows are few and are counted when needed. All others are pending.
CREATE TABLE counts (state TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counts VALUES ('delivered', 0), ('no row', 0);
CREATE TRIGGER deployments_moved AFTER UPDATE OF state ON deployments WHEN 'delivered' IN (old.state, new.state) BEGIN
    UPDATE counts SET n = n + (new.state = 'delivered') - (old.state = 'delivered') WHERE state = 'delivered';
END;
CREATE TRIGGER deployments_deleted AFTER DELETE ON deployments BEGIN
    UPDATE counts SET n = n - 1 WHERE state = 'delivered' AND old.state = 'delivered';
    -- If the last row is deleted, the next row reuses the unused ids directly below it.
    UPDATE counts SET n = n + 1 - max(0, old.id - (SELECT coalesce(max(id), 0) FROM deployments))
        WHERE state = 'no row';
END;

-- The inbox: reports as `emit` stores them, until the agent takes them. The table is the same as in version 3.
CREATE TABLE reports (
    id INTEGER PRIMARY KEY,
    received_at INTEGER NOT NULL,
    body TEXT NOT NULL                 -- JSON
);

-- Input that caused an unexpected exception. It is set aside, so that everything else continues.
CREATE TABLE set_aside (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,                -- report, run
    subject TEXT NOT NULL,             -- for people
    error TEXT NOT NULL,               -- with its traceback
    body TEXT                          -- the report as it was stored
);

-- The state of delivery, for people; one row.
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    state TEXT NOT NULL,               -- open, outage, paused
    since INTEGER NOT NULL,
    reason TEXT,
    next_probe_at INTEGER
);

-- One row for each Jenkins controller.
CREATE TABLE controllers (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL,               -- ok, unreachable, unauthorized, error
    since INTEGER NOT NULL,
    report_from INTEGER,               -- builds that ended earlier are history; NULL until the first poll is complete
    polled_at INTEGER,
    jobs INTEGER,
    last_error TEXT,
    clock_ahead_ms INTEGER             -- how far Jenkins' clock is ahead of this machine's
) WITHOUT ROWID;

-- The cursor: all numbers below next_build_number were read, except those in open_builds.
CREATE TABLE jobs (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    next_build_number INTEGER NOT NULL,
    newest_number INTEGER,             -- the newest build that was seen, and its start:
    newest_started_at INTEGER,         -- the same number with another start means another job with the same name
    looked_at INTEGER NOT NULL,        -- time on Jenkins' clock: lower numbers cannot have started later
    PRIMARY KEY (controller, full_name)
) WITHOUT ROWID;
CREATE TABLE open_builds (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    number INTEGER NOT NULL,
    seen INTEGER NOT NULL,             -- 0: Jenkins has assigned the number but shows no build yet
    waiting_since INTEGER,             -- since when it is neither running nor final
    first_seen_at INTEGER NOT NULL,
    started_at INTEGER,                -- NULL until Jenkins shows the build
    PRIMARY KEY (controller, full_name, number)
) WITHOUT ROWID;
-- Builds that sent a report and that no poll has read yet. The poller requests each of them.
CREATE TABLE wanted_builds (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    number INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (controller, full_name, number)
) WITHOUT ROWID;
-- Jobs that could not be read, each with its own backoff.
CREATE TABLE job_errors (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    error TEXT NOT NULL,
    since INTEGER NOT NULL,
    next_try_at INTEGER NOT NULL,
    PRIMARY KEY (controller, full_name)
) WITHOUT ROWID;
-- Assigned numbers whose builds could not be read: discarded, deleted, or never used.
CREATE TABLE missed (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    builds INTEGER NOT NULL,
    newest_number INTEGER NOT NULL,
    noted_at INTEGER NOT NULL,
    PRIMARY KEY (controller, full_name)
) WITHOUT ROWID;
-- Progress of backfills, so that an interrupted one can be resumed.
CREATE TABLE backfills (
    id TEXT PRIMARY KEY,               -- its arguments, as text
    since INTEGER NOT NULL,
    until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE backfilled_jobs (
    id TEXT NOT NULL REFERENCES backfills (id) ON DELETE CASCADE,
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    PRIMARY KEY (id, controller, full_name)
) WITHOUT ROWID;

-- Repairs: the damaged file was moved aside, and its readable rows were copied to this file.
CREATE TABLE repairs (
    at INTEGER PRIMARY KEY,
    moved_to TEXT NOT NULL,            -- the damaged file
    problem TEXT NOT NULL,
    events INTEGER NOT NULL,           -- number of deployments that were copied
    reread_from INTEGER NOT NULL       -- builds that ended since then are read again, because their events may be lost
);
