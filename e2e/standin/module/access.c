/*
 * Who may connect, and with which words the others are refused. Greenplum
 * decides this before it asks for a password (mirror) or after (segments);
 * PostgreSQL offers one place, at the end of authentication.
 */
#include "gp_standin.h"

#include <poll.h>

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "libpq/auth.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/timeout.h"

#define ERRCODE_MIRROR_READY MAKE_SQLSTATE('5', '7', 'M', '0', '2')
#define RECOVERY_POLL_MS 100

static ClientAuthentication_hook_type next_auth_hook = NULL;

/* What the startup packet asks for; the session's settings are not set yet. */
typedef struct Request
{
	bool		utility;
	PeerKind	kind;
} Request;

static void
note_setting(Request *request, const char *name, const char *value)
{
	if (strcmp(name, "gp_role") == 0 || strcmp(name, "gp_session_role") == 0)
		request->utility = strcmp(value, "utility") == 0;
	else if (strcmp(name, "gp_standin.connection") == 0)
		request->kind = strcmp(value, "fts") == 0 ? PEER_FTS
			: strcmp(value, "qe") == 0 ? PEER_QE : PEER_CLIENT;
}

static void
note_switch(Request *request, const char *text)
{
	char	   *name;
	char	   *value;

	ParseLongOption(text, &name, &value);
	if (value)
		note_setting(request, name, value);
}

static void
note_command_line(Request *request, char *options)
{
	char	  **words = palloc((2 + (strlen(options) + 1) / 2) * sizeof(char *));
	int			count = 0;
	int			i;

	pg_split_opts(words, &count, pstrdup(options));
	for (i = 0; i < count; i++)
	{
		if (strcmp(words[i], "-c") == 0 && i + 1 < count)
			note_switch(request, words[++i]);
		else if (strncmp(words[i], "-c", 2) == 0 || strncmp(words[i], "--", 2) == 0)
			note_switch(request, words[i] + 2);
	}
}

static Request
read_request(Port *port)
{
	Request		request = {false, PEER_CLIENT};
	ListCell   *cell = list_head(port->guc_options);

	if (port->cmdline_options)
		note_command_line(&request, port->cmdline_options);
	while (cell)
	{
		char	   *name = lfirst(cell);

		cell = lnext(port->guc_options, cell);
		note_setting(&request, name, lfirst(cell));
		cell = lnext(port->guc_options, cell);
	}
	return request;
}

static void
refuse_as_mirror(void)
{
	XLogRecPtr	replayed = GetXLogReplayRecPtr(NULL);

	ereport(FATAL,
			(errcode(ERRCODE_MIRROR_READY),
			 errmsg("the database system is in recovery mode"),
			 errdetail("last replayed record at %X/%X", LSN_FORMAT_ARGS(replayed))));
}

static void
refuse_normal_session(void)
{
	if (started_as == GP_ROLE_UTILITY)
		ereport(FATAL,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("System was started in single node mode - only utility mode connections are allowed")));
	ereport(FATAL,
			(errcode(ERRCODE_CANNOT_CONNECT_NOW),
			 errmsg("connections to primary segments are not allowed"),
			 errdetail("This database instance is running as a primary segment in a Greenplum cluster and does not permit direct connections."),
			 errhint("To force a connection anyway (dangerous!), use utility mode.")));
}

/*
 * A normal session of the coordinator hangs until the segments have been
 * reached once. One whose client has gone must not keep its place.
 */
static void
await_segments(Port *port)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	while (!cluster_state->segments_reached)
	{
		struct pollfd client = {port->sock, POLLRDHUP, 0};

		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 RECOVERY_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		if (poll(&client, 1, 0) > 0)
			proc_exit(0);
	}
}

/* FTS counts the grace of a mirror from here. */
static void
note_walsender_exit(int code, Datum arg)
{
	bool		streamed;

	if (strcmp(application_name, WALRECEIVER_NAME) != 0)
		return;
	streamed = MyWalSnd && MyWalSnd->state >= WALSNDSTATE_CATCHUP;
	SpinLockAcquire(&cluster_state->lock);
	cluster_state->mirror_gone_at = (pg_time_t) time(NULL);
	cluster_state->failed_attempts = streamed ? 0 : cluster_state->failed_attempts + 1;
	SpinLockRelease(&cluster_state->lock);
}

static void
admit(Port *port)
{
	Request		request = read_request(port);

	if (RecoveryInProgress())
	{
		if (request.kind != PEER_FTS)
			refuse_as_mirror();
		return;
	}
	SpinLockAcquire(&cluster_state->lock);
	if (cluster_state->accepting_since == 0)
		cluster_state->accepting_since = (pg_time_t) time(NULL);
	SpinLockRelease(&cluster_state->lock);

	if (am_walsender)
		before_shmem_exit(note_walsender_exit, (Datum) 0);
	if (am_walsender || request.kind != PEER_CLIENT || request.utility)
		return;
	if (!serves_as_coordinator())
		refuse_normal_session();
	await_segments(port);
}

static void
authenticated(Port *port, int status)
{
	if (next_auth_hook)
		next_auth_hook(port, status);
	if (status == STATUS_OK)
		admit(port);
}

void
access_init(void)
{
	next_auth_hook = ClientAuthentication_hook;
	ClientAuthentication_hook = authenticated;
}
