-- What a Greenplum has in pg_catalog and a PostgreSQL has not. Run in single-user
-- mode with -O -j: statements end with a semicolon and an empty line.

CREATE TABLE pg_catalog.gp_segment_configuration (
    dbid int2 NOT NULL,
    content int2 NOT NULL,
    role "char" NOT NULL,
    preferred_role "char" NOT NULL,
    mode "char" NOT NULL,
    status "char" NOT NULL,
    port int4 NOT NULL,
    hostname text NOT NULL,
    address text NOT NULL,
    datadir text NOT NULL
);

CREATE UNIQUE INDEX gp_segment_config_dbid_index ON pg_catalog.gp_segment_configuration (dbid);

CREATE UNIQUE INDEX gp_segment_config_content_preferred_role_index
    ON pg_catalog.gp_segment_configuration (content, preferred_role);

CREATE TABLE pg_catalog.gp_configuration_history (
    "time" timestamptz NOT NULL,
    dbid int2 NOT NULL,
    "desc" text
);

GRANT SELECT ON pg_catalog.gp_segment_configuration, pg_catalog.gp_configuration_history TO PUBLIC;

CREATE FUNCTION pg_catalog.gp_request_fts_probe_scan() RETURNS bool
    AS 'gp_standin', 'gp_request_fts_probe_scan' LANGUAGE C VOLATILE;

-- FTS speaks to segments through this one; it is not for people.
CREATE FUNCTION pg_catalog.gp_standin_fts_message(message text, dbid int4, content int4,
    OUT is_mirror_up bool, OUT is_in_sync bool, OUT is_syncrep_enabled bool,
    OUT is_role_mirror bool, OUT request_retry bool)
    AS 'gp_standin', 'gp_standin_fts_message' LANGUAGE C VOLATILE STRICT;

REVOKE ALL ON FUNCTION pg_catalog.gp_standin_fts_message(text, int4, int4) FROM PUBLIC;

-- Runs a statement on every acting primary; the first column is the content.
CREATE FUNCTION pg_catalog.gp_standin_dispatch_id(statement text)
    RETURNS TABLE (gp_segment_id int4, gpname name, numsegments int2, dbid int2, content int2)
    AS 'gp_standin', 'gp_standin_dispatch' LANGUAGE C VOLATILE STRICT;

CREATE FUNCTION pg_catalog.gp_standin_dispatch_replication(statement text)
    RETURNS TABLE (gp_segment_id int4, pid int4, usesysid oid, usename name, application_name text,
        client_addr inet, client_hostname text, client_port int4, backend_start timestamptz,
        backend_xmin xid, state text, sent_lsn pg_lsn, write_lsn pg_lsn, flush_lsn pg_lsn,
        replay_lsn pg_lsn, write_lag interval, flush_lag interval, replay_lag interval,
        sync_priority int4, sync_state text, reply_time timestamptz, sync_error text)
    AS 'gp_standin', 'gp_standin_dispatch' LANGUAGE C VOLATILE STRICT;

REVOKE ALL ON FUNCTION pg_catalog.gp_standin_dispatch_id(text),
    pg_catalog.gp_standin_dispatch_replication(text) FROM PUBLIC;

-- Only gp_id can be read, by everybody; in a utility-mode session it is the instance's own row.
CREATE FUNCTION pg_catalog.gp_dist_random(relation text)
    RETURNS TABLE (gp_segment_id int4, gpname name, numsegments int2, dbid int2, content int2)
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    own constant text := 'SELECT ''Greenplum'', -1, current_setting(''gp_dbid''), current_setting(''gp_contentid'')';
BEGIN
    IF relation NOT IN ('gp_id', 'pg_catalog.gp_id') THEN
        RAISE EXCEPTION 'the stand-in of Greenplum has gp_dist_random of gp_id only, not of %', relation;
    END IF;
    IF current_setting('gp_role') = 'dispatch' THEN
        RETURN QUERY SELECT * FROM pg_catalog.gp_standin_dispatch_id(own);
    ELSE
        RETURN QUERY SELECT current_setting('gp_contentid')::int4, 'Greenplum'::name, (-1)::int2,
            current_setting('gp_dbid')::int2, current_setting('gp_contentid')::int2;
    END IF;
END $$;

-- A row for every content that has a mirror, also when no walsender serves it; for the coordinator's standby only while one does.
CREATE FUNCTION pg_catalog.gp_standin_replication()
    RETURNS TABLE (gp_segment_id int4, pid int4, usesysid oid, usename name, application_name text,
        client_addr inet, client_hostname text, client_port int4, backend_start timestamptz,
        backend_xmin xid, state text, sent_lsn pg_lsn, write_lsn pg_lsn, flush_lsn pg_lsn,
        replay_lsn pg_lsn, write_lag interval, flush_lag interval, replay_lag interval,
        sync_priority int4, sync_state text, reply_time timestamptz, sync_error text)
    LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF current_setting('gp_role') = 'dispatch' THEN
        RETURN QUERY SELECT * FROM pg_catalog.gp_standin_dispatch_replication(
            'SELECT *, ''none'' FROM pg_catalog.pg_stat_replication');
    END IF;
END $$;

CREATE VIEW pg_catalog.gp_stat_replication AS
    SELECT current_setting('gp_contentid')::int4 AS gp_segment_id, s.pid, s.usesysid, s.usename, s.application_name, s.client_addr, s.client_hostname, s.client_port,
        s.backend_start, s.backend_xmin, s.state, s.sent_lsn, s.write_lsn, s.flush_lsn, s.replay_lsn,
        s.write_lag, s.flush_lag, s.replay_lag, s.sync_priority, s.sync_state, s.reply_time, 'none' AS sync_error
    FROM pg_catalog.pg_stat_replication s
    UNION ALL
    SELECT coalesce(r.gp_segment_id, c.content) AS gp_segment_id, r.pid, r.usesysid, r.usename,
        r.application_name, r.client_addr, r.client_hostname, r.client_port, r.backend_start,
        r.backend_xmin, r.state, r.sent_lsn, r.write_lsn, r.flush_lsn, r.replay_lsn,
        r.write_lag, r.flush_lag, r.replay_lag, r.sync_priority, r.sync_state, r.reply_time, r.sync_error
    FROM (SELECT content::int4 FROM pg_catalog.gp_segment_configuration
          WHERE role = 'm' AND content >= 0 AND current_setting('gp_role') = 'dispatch') c
    LEFT JOIN pg_catalog.gp_standin_replication() r ON r.gp_segment_id = c.content;

CREATE OR REPLACE FUNCTION pg_catalog.version() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format('PostgreSQL %s (Greenplum Database 7.0.0 build stand-in)', current_setting('server_version'))
$$;
