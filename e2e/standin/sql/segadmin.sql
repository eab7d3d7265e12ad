-- Greenplum's functions that add and remove rows of gp_segment_configuration.

CREATE FUNCTION pg_catalog.gp_standin_check_caller(caller text, utility bool) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('gp_contentid')::int4 <> -1 THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = caller || ' must be run on the coordinator';
    ELSIF utility AND current_setting('gp_role') <> 'utility' THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = caller || ' must be run in utility mode';
    ELSIF current_setting('is_superuser') <> 'on' THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = caller || ' can only be run by a superuser';
    END IF;
END $$;

CREATE FUNCTION pg_catalog.gp_standin_add(new_dbid int2, new_content int2, new_role "char", preferred "char",
    new_status "char", new_port int4, new_hostname text, new_address text, new_datadir text)
    RETURNS int2 LANGUAGE plpgsql SET allow_system_table_mods = on AS $$
BEGIN
    LOCK TABLE pg_catalog.gp_segment_configuration IN ACCESS EXCLUSIVE MODE;
    IF new_role = 'm' THEN
        IF NOT EXISTS (SELECT FROM pg_catalog.gp_segment_configuration WHERE content = new_content AND role = 'p') THEN
            RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = format('contentid %s does not point to an existing segment', new_content);
        ELSIF EXISTS (SELECT FROM pg_catalog.gp_segment_configuration WHERE content = new_content AND role = 'm') THEN
            RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'segment already has a mirror defined';
        ELSIF preferred = 'm' AND NOT EXISTS (SELECT FROM pg_catalog.gp_segment_configuration
                WHERE content = new_content AND preferred_role = 'p') THEN
            RAISE NOTICE 'override preferred_role of this mirror as primary to support rebalance operation.';
            preferred := 'p';
        END IF;
    END IF;
    INSERT INTO pg_catalog.gp_segment_configuration
        VALUES (new_dbid, new_content, new_role, preferred, 'n', new_status, new_port, new_hostname, new_address, new_datadir);
    RETURN new_dbid;
END $$;

CREATE FUNCTION pg_catalog.gp_standin_free_dbid() RETURNS int2 LANGUAGE sql AS $$
    SELECT min(n)::int2 FROM generate_series(1, 32767) n
        WHERE NOT EXISTS (SELECT FROM pg_catalog.gp_segment_configuration c WHERE c.dbid = n)
$$;

CREATE FUNCTION pg_catalog.gp_add_segment(dbid int2, content int2, role "char", preferred_role "char",
    mode "char", status "char", port int4, hostname text, address text, datadir text)
    RETURNS int2 LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.gp_standin_check_caller('gp_add_segment', false);
    RAISE NOTICE 'mode is changed to GP_SEGMENT_CONFIGURATION_MODE_NOTINSYNC under walrep.';
    RETURN pg_catalog.gp_standin_add(dbid, content, role, preferred_role, status, port, hostname, address, datadir);
END $$;

CREATE FUNCTION pg_catalog.gp_add_segment_primary(hostname text, address text, port int4, datadir text)
    RETURNS int2 LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.gp_standin_check_caller('gp_add_segment_primary', false);
    RETURN pg_catalog.gp_standin_add(pg_catalog.gp_standin_free_dbid(),
        (SELECT (max(c.content) + 1)::int2 FROM pg_catalog.gp_segment_configuration c),
        'p', 'p', 'u', port, hostname, address, datadir);
END $$;

CREATE FUNCTION pg_catalog.gp_add_segment_mirror(content int2, hostname text, address text, port int4, datadir text)
    RETURNS int2 LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.gp_standin_check_caller('gp_add_segment_mirror', false);
    RETURN pg_catalog.gp_standin_add(pg_catalog.gp_standin_free_dbid(), content,
        'm', 'm', 'u', port, hostname, address, datadir);
END $$;

CREATE FUNCTION pg_catalog.gp_remove_segment(gone int2) RETURNS bool LANGUAGE plpgsql
    SET allow_system_table_mods = on AS $$
BEGIN
    PERFORM pg_catalog.gp_standin_check_caller('gp_remove_segment', true);
    DELETE FROM pg_catalog.gp_segment_configuration WHERE dbid = gone;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = format('could not find configuration entry for dbid %s', gone);
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION pg_catalog.gp_remove_segment_mirror(of_content int2) RETURNS bool LANGUAGE plpgsql
    SET allow_system_table_mods = on AS $$
BEGIN
    PERFORM pg_catalog.gp_standin_check_caller('gp_remove_segment_mirror', false);
    LOCK TABLE pg_catalog.gp_segment_configuration IN ACCESS EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM pg_catalog.gp_segment_configuration WHERE content = of_content AND role = 'p') THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = format('no dbid for contentid %s', of_content);
    END IF;
    DELETE FROM pg_catalog.gp_segment_configuration WHERE content = of_content AND role = 'm';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = format('segment does not have a mirror');
    END IF;
    RETURN true;
END $$;

-- The standby of the coordinator gets the next number, not the lowest free one; its mode and status are what nobody looks after.
CREATE FUNCTION pg_catalog.gp_add_master_standby(hostname text, address text, datadir text, port int4)
    RETURNS int2 LANGUAGE plpgsql SET allow_system_table_mods = on AS $$
DECLARE
    given int2;
BEGIN
    PERFORM pg_catalog.gp_standin_check_caller('gp_add_master_standby', true);
    LOCK TABLE pg_catalog.gp_segment_configuration IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM pg_catalog.gp_segment_configuration c WHERE c.content = -1 AND c.role = 'm') THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'only a single coordinator standby may be defined';
    END IF;
    SELECT max(c.dbid) + 1 INTO given FROM pg_catalog.gp_segment_configuration c;
    INSERT INTO pg_catalog.gp_segment_configuration VALUES (given, -1, 'm', 'm', 's', 'u', port, hostname, address, datadir);
    RETURN given;
END $$;

CREATE FUNCTION pg_catalog.gp_remove_master_standby() RETURNS bool LANGUAGE plpgsql SET allow_system_table_mods = on AS $$
BEGIN
    PERFORM pg_catalog.gp_standin_check_caller('gp_remove_master_standby', true);
    DELETE FROM pg_catalog.gp_segment_configuration WHERE content = -1 AND role = 'm';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'no coordinator standby defined';
    END IF;
    RETURN true;
END $$;
