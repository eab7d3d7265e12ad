/*
 * What a segment does with a message of FTS. Greenplum has a message handler of
 * its own for this; here the message is a function call over a connection that
 * access.c lets in, a mirror's too (which therefore needs hot_standby = on).
 */
#include "gp_standin.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#define PROBE_FILE "fts_probe_file.bak"
#define RELOAD_LIMIT_S 5
#define RELOAD_POLL_US 5000

typedef struct Answer
{
	bool		mirror_up;
	bool		in_sync;
	bool		syncrep_on;
	bool		role_mirror;
	bool		retry;
} Answer;

/*
 * The catalog must not say "in sync" before commits wait, nor before they are
 * free again; the checkpointer does that when it has reloaded.
 */
static void
await_sync_names(bool on)
{
	time_t		begun = time(NULL);

	while (!!(((volatile WalSndCtlData *) WalSndCtl)->sync_standbys_status & SYNC_STANDBY_DEFINED) != on)
	{
		CHECK_FOR_INTERRUPTS();
		if (time(NULL) - begun > RELOAD_LIMIT_S)
			ereport(ERROR, (errmsg("synchronous_standby_names did not take effect")));
		pg_usleep(RELOAD_POLL_US);
	}
}

/* Written to postgresql.auto.conf, as by ALTER SYSTEM, then reloaded. */
static void
set_sync_names(char *names)
{
	AlterSystemStmt *statement = makeNode(AlterSystemStmt);
	A_Const    *value = makeNode(A_Const);

	value->val.sval.type = T_String;
	value->val.sval.sval = names;
	value->location = -1;

	statement->setstmt = makeNode(VariableSetStmt);
	statement->setstmt->kind = VAR_SET_VALUE;
	statement->setstmt->name = "synchronous_standby_names";
	statement->setstmt->args = list_make1(value);
	AlterSystemSetConfigFile(statement);
	if (kill(PostmasterPid, SIGHUP) != 0)
		ereport(ERROR, (errmsg("failed to signal the postmaster: %m")));
	await_sync_names(names[0] != '\0');
}

static bool
syncrep_is_on(void)
{
	return SyncRepStandbyNames && SyncRepStandbyNames[0] != '\0';
}

/* As UnsetSyncStandbysDefined: one whose settings never said otherwise is told nothing. */
static void
forget_sync_names(void)
{
	if (syncrep_is_on())
		set_sync_names("");
}

/*
 * As is_mirror_up: it streams or catches up, and has taken something since it
 * connected. Commits may wait for one that is less than a WAL segment behind.
 */
static bool
look_for_mirror(Answer *answer)
{
	char	   *sql = psprintf("SELECT state = 'streaming',"
							   " state = 'streaming' OR pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), sent_lsn) < %d"
							   " FROM pg_catalog.pg_stat_replication"
							   " WHERE application_name = '" WALRECEIVER_NAME "' AND state IN ('streaming', 'catchup')"
							   " AND flush_lsn IS NOT NULL ORDER BY 1 DESC LIMIT 1", wal_segment_size);
	bool		ready = false;

	SPI_connect();
	if (SPI_execute(sql, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "cannot read pg_stat_replication");
	if (SPI_processed == 1)
	{
		bool		null;
		HeapTuple	row = SPI_tuptable->vals[0];

		answer->mirror_up = true;
		answer->in_sync = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &null));
		ready = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &null));
	}
	SPI_finish();
	return ready;
}

static bool
mirror_has_grace(void)
{
	pg_time_t	since;
	int			failed;
	long		gone;

	SpinLockAcquire(&cluster_state->lock);
	since = Max(cluster_state->accepting_since, cluster_state->mirror_gone_at);
	failed = cluster_state->failed_attempts;
	SpinLockRelease(&cluster_state->lock);
	gone = (long) (time(NULL) - since);
	if (failed > gp_fts_replication_attempt_count)
	{
		ereport(LOG, (errmsg("Primary-mirror replication streaming already attempted %d times exceed limit gp_fts_replication_attempt_count %d",
							 failed, gp_fts_replication_attempt_count)));
		return false;
	}
	if (gone >= gp_fts_mark_mirror_down_grace_period)
		return false;
	ereport(LOG, (errmsg("requesting fts retry as mirror didn't connect yet but in grace period: %ld", gone)));
	return true;
}

static void
io_failed(const char *what)
{
	ereport(LOG, (errcode_for_file_access(),
				  errmsg("FTS: could not %s file \"%s\": %m", what, PROBE_FILE)));
	unlink(PROBE_FILE);
	ereport(ERROR, (errmsg("disk IO check during FTS probe failed")));
}

/* A disk that takes no writes any more must count as a dead primary. */
static void
check_disk(void)
{
	char		block[BLCKSZ] = "FTS probe";
	int			fd = open(PROBE_FILE, O_RDWR | O_CREAT, S_IRUSR | S_IWUSR);

	if (fd < 0)
		io_failed("open");
	if (pwrite(fd, block, sizeof(block), 0) != sizeof(block))
	{
		close(fd);
		io_failed("write");
	}
	if (pread(fd, block, sizeof(block), 0) != sizeof(block))
	{
		close(fd);
		io_failed("read");
	}
	close(fd);
}

static void
probe(Answer *answer)
{
	if (RecoveryInProgress())
	{
		answer->role_mirror = true;
		ereport(LOG, (errmsg("received probe message while acting as mirror")));
	}
	else
	{
		bool		ready = look_for_mirror(answer);

		answer->syncrep_on = syncrep_is_on();
		if (!answer->mirror_up)
			answer->retry = mirror_has_grace();
		else if (ready && !answer->syncrep_on)
		{
			set_sync_names("*");
			answer->syncrep_on = true;
		}
	}
	check_disk();
}

static void
syncrep_off(Answer *answer)
{
	ereport(LOG, (errmsg("turning off synchronous wal replication due to FTS request")));
	forget_sync_names();
	look_for_mirror(answer);
}

static void
run(const char *sql)
{
	SPI_connect();
	if (SPI_execute(sql, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run: %s", sql);
	SPI_finish();
}

/* May come more than once, also while the promotion is under way. */
static void
promote(Answer *answer)
{
	ereport(LOG, (errmsg("promoting mirror to primary due to FTS request")));
	answer->role_mirror = RecoveryInProgress();
	if (!answer->role_mirror)
	{
		ereport(LOG, (errmsg("ignoring promote request, walreceiver not running")));
		return;
	}
	forget_sync_names();
	run("SELECT pg_catalog.pg_create_physical_replication_slot('" WAL_SLOT "', true)"
		" WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = '" WAL_SLOT "')");
	run("SELECT pg_catalog.pg_promote(false)");
}

static void
check_addressee(int dbid, int content)
{
	if (dbid != gp_dbid || content != gp_contentid)
		ereport(WARNING, (errmsg("received message for dbid:%d contentid:%d, but this is dbid:%d contentid:%d",
								 dbid, content, gp_dbid, gp_contentid)));
}

PG_FUNCTION_INFO_V1(gp_standin_fts_message);

Datum
gp_standin_fts_message(PG_FUNCTION_ARGS)
{
	char	   *message = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Answer		answer = {0};
	TupleDesc	shape;
	Datum		values[5];
	bool		nulls[5] = {0};

	check_addressee(PG_GETARG_INT32(1), PG_GETARG_INT32(2));
	if (strcmp(message, "PROBE") == 0)
		probe(&answer);
	else if (strcmp(message, "SYNCREP_OFF") == 0)
		syncrep_off(&answer);
	else if (strcmp(message, "PROMOTE") == 0)
		promote(&answer);
	else
		ereport(ERROR, (errmsg("received unknown FTS query: %s", message)));

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = BoolGetDatum(answer.mirror_up);
	values[1] = BoolGetDatum(answer.in_sync);
	values[2] = BoolGetDatum(answer.syncrep_on);
	values[3] = BoolGetDatum(answer.role_mirror);
	values[4] = BoolGetDatum(answer.retry);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}
