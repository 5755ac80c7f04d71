-- Agents work with these tables from version 2 on.
-- What several agents share beside leases: one rate limit, one probe at a time, and which reports were moved up.

-- When the next request to Hivel may be sent, as if none was in reserve.
CREATE TABLE rate (id integer PRIMARY KEY CHECK (id = 1), free_at bigint NOT NULL);
INSERT INTO rate (id, free_at) VALUES (1, 0);

-- While the circuit breaker is tripped, the agent that sets probe_until sends the one event that tests Hivel.
CREATE TABLE probe (id integer PRIMARY KEY CHECK (id = 1), until bigint NOT NULL);
INSERT INTO probe (id, until) VALUES (1, 0);

-- Reports that an agent kept on its own disk and stored here later. An agent that lost the answer tries again.
CREATE TABLE moved_reports (origin bytea PRIMARY KEY, at bigint NOT NULL);
CREATE INDEX moved_reports_by_age ON moved_reports (at);
