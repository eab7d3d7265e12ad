/*
 * Statements that reach every acting primary by a real connection, and the
 * worker that reaches them once after a start ("distributed recovery"), before
 * which normal sessions get no answer.
 */
#include "gp_standin.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#define ERRCODE_GP_INTERCONNECTION MAKE_SQLSTATE('5', '8', 'M', '0', '1')
#define RECOVERY_PAUSE_MS 200
#define RESTART_S 1

PGDLLEXPORT void gp_standin_recovery_main(Datum argument);

void
dispatch_register_worker(void)
{
	BackgroundWorker worker = {
		.bgw_name = "dtx recovery",
		.bgw_type = "dtx recovery",
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = RESTART_S,
		.bgw_library_name = "gp_standin",
		.bgw_function_name = "gp_standin_recovery_main",
	};

	RegisterBackgroundWorker(&worker);
}

/* Whether a primary of these rows is marked down, or has been replaced, by now. */
static bool
roles_moved(List *before)
{
	List	   *now = read_topology();
	ListCell   *cell;

	foreach(cell, before)
	{
		Instance   *one = lfirst(cell);
		Instance   *acting = find_instance(now, one->content, 'p');

		if (one->role == 'p' && (acting == NULL || acting->dbid != one->dbid))
			return true;
	}
	return false;
}

/* The prober is told, as by Greenplum's dispatcher, and its finding decides the words. */
static void
fail_dispatch(List *instances, const Instance *on, PGconn *conn)
{
	char	   *words = pstrdup(conn ? PQerrorMessage(conn) : "");

	PQfinish(conn);
	fts_request_scan();
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	if (roles_moved(instances))
		ereport(ERROR,
				(errcode(ERRCODE_GP_INTERCONNECTION),
				 errmsg("failed to acquire resources on one or more segments"),
				 errdetail("FTS detected one or more segments are down")));
	ereport(ERROR,
			(errcode(ERRCODE_GP_INTERCONNECTION),
			 errmsg("failed to acquire resources on one or more segments"),
			 errdetail("%s (seg%d %s:%d)", words, on->content, on->address, on->port)));
}

typedef void (*RowTaker) (const Instance *from, PGresult *rows, void *state);

static void
dispatch(const char *sql, RowTaker take, void *state)
{
	List	   *instances = read_topology();
	ListCell   *cell;

	foreach(cell, instances)
	{
		Instance   *one = lfirst(cell);
		PGconn	   *conn;
		PGresult   *rows;

		if (one->role != 'p' || one->content < 0)
			continue;
		conn = peer_connect(one, PEER_QE, gp_segment_connect_timeout);
		rows = PQstatus(conn) == CONNECTION_OK ? peer_ask(conn, sql) : NULL;
		if (PQresultStatus(rows) != PGRES_TUPLES_OK)
			fail_dispatch(instances, one, conn);
		take(one, rows, state);
		PQclear(rows);
		PQfinish(conn);
	}
}

/* Each row of the segment, with its content put in front, as text. */
static void
store_rows(const Instance *from, PGresult *rows, void *state)
{
	ReturnSetInfo *set = state;
	AttInMetadata *shape = TupleDescGetAttInMetadata(set->setDesc);
	int			columns = set->setDesc->natts;
	char	  **values = palloc(columns * sizeof(char *));
	int			row;
	int			i;

	values[0] = psprintf("%d", from->content);
	for (row = 0; row < PQntuples(rows); row++)
	{
		for (i = 1; i < columns; i++)
			values[i] = PQgetisnull(rows, row, i - 1) ? NULL : PQgetvalue(rows, row, i - 1);
		tuplestore_puttuple(set->setResult, BuildTupleFromCStrings(shape, values));
	}
}

/* The same function answers the coordinator's call and the dispatched one. */
PG_FUNCTION_INFO_V1(gp_standin_dispatch);

Datum
gp_standin_dispatch(PG_FUNCTION_ARGS)
{
	if (gp_role != GP_ROLE_DISPATCH)
		ereport(ERROR, (errmsg("only a session of the coordinator in dispatch mode can dispatch")));
	InitMaterializedSRF(fcinfo, 0);
	dispatch(text_to_cstring(PG_GETARG_TEXT_PP(0)), store_rows, fcinfo->resultinfo);
	return (Datum) 0;
}

static bool
reaches(const Instance *primary)
{
	PGconn	   *conn = peer_connect(primary, PEER_QE, gp_segment_connect_timeout);
	PGresult   *answer = PQstatus(conn) == CONNECTION_OK ? peer_ask(conn, "SELECT 1") : NULL;
	bool		reached = PQresultStatus(answer) == PGRES_TUPLES_OK;

	PQclear(answer);
	PQfinish(conn);
	return reached;
}

static bool
reaches_all_primaries(void)
{
	List	   *instances;
	ListCell   *cell;
	bool		all = true;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	instances = read_topology();
	foreach(cell, instances)
	{
		Instance   *one = lfirst(cell);

		if (all && one->role == 'p' && one->content >= 0)
			all = reaches(one);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	return all;
}

static void
rest(long milliseconds)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (milliseconds > 0 ? WL_TIMEOUT : 0),
					 milliseconds, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Stays when it is done: after a crash of a backend it has to begin again. */
void
gp_standin_recovery_main(Datum argument)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(CATALOG_DATABASE, NULL, 0);
	finish_activation();
	while (!reaches_all_primaries())
	{
		/* A segment that cannot be reached sets off the prober, also here. */
		fts_request_scan();
		rest(RECOVERY_PAUSE_MS);
	}
	cluster_state->segments_reached = true;
	for (;;)
		rest(-1);
}
