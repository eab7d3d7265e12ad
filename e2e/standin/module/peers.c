/* Connections that the coordinator makes to segments. */
#include "gp_standin.h"

#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "utils/wait_event.h"

#define POLL_MS 200

/*
 * The prober's and dispatch's own way in: the segment knows them by this
 * option. A session dispatches as its own user, the prober probes as the
 * server's, as in Greenplum; the password comes from PGPASSFILE, which the
 * server inherits.
 */
PGconn *
peer_connect_start(const Instance *to, PeerKind kind)
{
	char		port[16];
	const char *user = kind == PEER_QE && MyProcPort ? MyProcPort->user_name : NULL;
	const char *names[] = {"host", "port", "dbname", "application_name", "options", "user", NULL};
	const char *values[] = {to->address, port, CATALOG_DATABASE,
		kind == PEER_FTS ? "ftsprobe" : "dispatch",
		kind == PEER_FTS ? "-c gp_standin.connection=fts" : "-c gp_standin.connection=qe", user, NULL};

	snprintf(port, sizeof(port), "%d", to->port);
	return PQconnectStartParams(names, values, 0);
}

static void
await_socket(PGconn *conn, int events)
{
	int			seen = WaitLatchOrSocket(MyLatch,
										 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
										 PQsocket(conn), POLL_MS, PG_WAIT_EXTENSION);

	if (seen & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Unlike PQconnectdb this can be cancelled. Ask PQstatus for the outcome. */
PGconn *
peer_connect(const Instance *to, PeerKind kind, int timeout_s)
{
	PGconn	   *conn = peer_connect_start(to, kind);
	PostgresPollingStatusType next = PGRES_POLLING_WRITING;
	time_t		begun = time(NULL);

	PG_TRY();
	{
		while (conn && PQstatus(conn) != CONNECTION_BAD && next != PGRES_POLLING_OK
			   && next != PGRES_POLLING_FAILED
			   && (timeout_s == 0 || time(NULL) - begun <= timeout_s))
		{
			await_socket(conn, next == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE);
			next = PQconnectPoll(conn);
		}
	}
	PG_CATCH();
	{
		PQfinish(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return conn;
}

/* The one result of one statement; NULL when the connection broke. */
PGresult *
peer_ask(PGconn *conn, const char *sql)
{
	PGresult   *result;

	if (!PQsendQuery(conn, sql))
		return NULL;
	PG_TRY();
	{
		while (PQisBusy(conn))
		{
			await_socket(conn, WL_SOCKET_READABLE);
			if (!PQconsumeInput(conn))
				break;
		}
	}
	PG_CATCH();
	{
		PQfinish(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();
	result = PQgetResult(conn);
	return PQstatus(conn) == CONNECTION_OK ? result : NULL;
}
