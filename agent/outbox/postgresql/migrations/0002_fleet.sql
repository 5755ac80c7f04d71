-- Agents work with these tables from version 2 on.
-- Several agents: which of them polls which controller. Agents of version 1 know no leases and would poll everything.

-- The agents, each with an id of its process. leaving: a person asked it to give its controllers to the others.
CREATE TABLE agents (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    pid integer NOT NULL,
    started_at bigint NOT NULL,
    seen_at bigint NOT NULL,
    ttl_ms bigint NOT NULL,
    leaving boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- epoch grows each time an agent takes the lease. expires_at is by the clock of the database: see now_ms().
CREATE TABLE leases (
    controller text COLLATE "C" PRIMARY KEY,
    holder uuid,
    epoch bigint NOT NULL DEFAULT 0,
    expires_at bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The fence: transactions of a poll begin with it. The lock holds back agents that take the lease (FOR UPDATE) until the
-- transaction ends, but not renewals of the lease, which change no key column.
CREATE FUNCTION holds_lease(name text, agent uuid, number bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM leases
        WHERE controller = name AND holder = agent AND epoch = number AND expires_at > now_ms() FOR KEY SHARE;
    RETURN FOUND;
END $$;
