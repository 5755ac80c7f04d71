-- The outbox from version 6 on. Files of versions 1 to 5 are copied into a new one: see upgrade.py.
-- Times are UTC milliseconds.

-- Long names stand once.
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

-- What was said about a run, once. The facts of a build go together.
CREATE TABLE facts (
    id INTEGER PRIMARY KEY,
    project_id INTEGER NOT NULL,       -- of a project; these are never deleted, and a check costs each enqueue
    run TEXT NOT NULL,                 -- Jenkins' number, or the run id
    attempt INTEGER NOT NULL,
    source TEXT NOT NULL,              -- poller, backfill, emit, intake, spool
    kind TEXT NOT NULL,                -- seen, final, gone, report, unreadable
    received_at INTEGER NOT NULL,      -- when it was said, by the controller's clock
    word INTEGER NOT NULL,             -- its identity
    started_at INTEGER,                -- exact for what polls say
    principal TEXT NOT NULL,           -- the team whose token a report had; mostly empty
    body TEXT                          -- JSON of a Build or a Report
);
CREATE INDEX facts_of_run ON facts (project_id, run);

CREATE TABLE deployments (
    id INTEGER PRIMARY KEY,
    project_id INTEGER NOT NULL,
    run TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    build_started_at INTEGER,          -- NULL: as started_at
    build_ended_at INTEGER,            -- NULL: as ended_at
    known INTEGER NOT NULL,            -- whether a poll named the build: then its start is exact
    scope TEXT NOT NULL,               -- whole, stage, rule
    stage TEXT,
    said_environment TEXT,
    names TEXT,                        -- JSON: all names that it stands for; NULL: scope, stage, said_environment
    anchor INTEGER NOT NULL,           -- the word of its first fact
    deployment_id TEXT UNIQUE,         -- NULL while it is held
    state TEXT NOT NULL,
    revision INTEGER NOT NULL,
    sent_revision INTEGER,             -- which one Hivel has; 0: it is not known which
    status TEXT NOT NULL,
    environment TEXT,
    repo_url TEXT,
    branch TEXT,
    commit_hash TEXT,
    first_commit_at INTEGER,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    build_number TEXT,                 -- NULL: as run
    pr_number TEXT,
    pr_numbers TEXT,                   -- JSON
    image TEXT,
    logs_url TEXT,
    problem TEXT,                      -- why no event can be made of it
    created_at INTEGER NOT NULL,
    held_since INTEGER,
    next_attempt_at INTEGER NOT NULL,  -- meaningful while pending
    attempts INTEGER NOT NULL DEFAULT 0,
    settled_at INTEGER,                -- when it was delivered, failed or discarded
    reason TEXT                        -- why it is in its state
);
CREATE INDEX deployments_of_run ON deployments (project_id, run);
-- One index for claims and for lists of one state: each index costs each enqueue a page.
CREATE INDEX deployments_by_state ON deployments (state, id, next_attempt_at);

-- What came of attempts that failed; a success is in the deployment. The first, the last 20, and the count are kept.
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

-- What is left of deployments that were deleted: enough to know their ids again, in some 35 bytes each.
CREATE TABLE forgotten (
    id_hash BLOB PRIMARY KEY,          -- of the deployment_id
    started_at INTEGER NOT NULL,       -- of the build
    day INTEGER NOT NULL               -- when it was deleted, in days since 1970
) WITHOUT ROWID;

-- Counting a million rows takes time; counting along takes none. Delivered ones, and ids below the highest that no row
-- has (any more); those that are held, failed or discarded are few. All others are pending.
CREATE TABLE counts (state TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counts VALUES ('delivered', 0), ('no row', 0);
CREATE TRIGGER deployments_moved AFTER UPDATE OF state ON deployments WHEN 'delivered' IN (old.state, new.state) BEGIN
    UPDATE counts SET n = n + (new.state = 'delivered') - (old.state = 'delivered') WHERE state = 'delivered';
END;
CREATE TRIGGER deployments_deleted AFTER DELETE ON deployments BEGIN
    UPDATE counts SET n = n - 1 WHERE state = 'delivered' AND old.state = 'delivered';
    -- With the last row go the ids that were free below it: the next row gets the first of them.
    UPDATE counts SET n = n + 1 - max(0, old.id - (SELECT coalesce(max(id), 0) FROM deployments))
        WHERE state = 'no row';
END;

-- The inbox: reports as `emit` stores them, until the agent takes them. Its form is the one of version 3.
CREATE TABLE reports (
    id INTEGER PRIMARY KEY,
    received_at INTEGER NOT NULL,
    body TEXT NOT NULL                 -- JSON
);

-- What an exception that nobody expected came from: put aside, so that everything else goes on.
CREATE TABLE set_aside (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,                -- report, run
    subject TEXT NOT NULL,             -- what it is about, for people
    error TEXT NOT NULL,               -- with its trace
    body TEXT                          -- of a report: as it was stored
);

-- What the delivery is up to, for people; one row.
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
    report_from INTEGER,               -- builds that ended before are history; NULL until the first full poll
    polled_at INTEGER,
    jobs INTEGER,
    last_error TEXT,
    clock_ahead_ms INTEGER             -- how far Jenkins' clock is ahead of this machine's
) WITHOUT ROWID;

-- The cursor: numbers below next_build_number were read, but for those in open_builds.
CREATE TABLE jobs (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    next_build_number INTEGER NOT NULL,
    newest_number INTEGER,             -- the newest build that was seen, and when it started:
    newest_started_at INTEGER,         -- the same number with another start is another job of the same name
    looked_at INTEGER NOT NULL,        -- Jenkins' clock then: lower numbers cannot have started later
    PRIMARY KEY (controller, full_name)
) WITHOUT ROWID;
CREATE TABLE open_builds (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    number INTEGER NOT NULL,
    seen INTEGER NOT NULL,             -- 0: Jenkins gave the number away but shows no build yet
    waiting_since INTEGER,             -- since when it is neither running nor final
    first_seen_at INTEGER NOT NULL,
    started_at INTEGER,                -- NULL as long as Jenkins shows no build
    PRIMARY KEY (controller, full_name, number)
) WITHOUT ROWID;
-- Builds that reported something and that no poll knows yet: each is asked for.
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
-- Numbers that were given away and whose builds could not be read: discarded, deleted, or never used.
CREATE TABLE missed (
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    builds INTEGER NOT NULL,
    newest_number INTEGER NOT NULL,
    noted_at INTEGER NOT NULL,
    PRIMARY KEY (controller, full_name)
) WITHOUT ROWID;
-- A backfill that was interrupted goes on where it was.
CREATE TABLE backfills (
    id TEXT PRIMARY KEY,               -- what was asked for, in words
    since INTEGER NOT NULL,
    until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE backfilled_jobs (
    id TEXT NOT NULL REFERENCES backfills (id) ON DELETE CASCADE,
    controller TEXT NOT NULL,
    full_name TEXT NOT NULL,
    PRIMARY KEY (id, controller, full_name)
) WITHOUT ROWID;

-- A damaged file was moved aside and what could be read of it is here.
CREATE TABLE repairs (
    at INTEGER PRIMARY KEY,
    moved_to TEXT NOT NULL,            -- the damaged file
    problem TEXT NOT NULL,
    events INTEGER NOT NULL,           -- how many deployments were read
    reread_from INTEGER NOT NULL       -- builds that ended since then are read again: their events may be lost
);
