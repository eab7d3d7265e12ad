/*
 * One scan of FTS: every acting primary that has a mirror is asked, at the same
 * time, and what the answers mean is done. The rules, their order and the texts
 * in the log are Greenplum's.
 */
#include "gp_standin.h"

#include <poll.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#define POLL_MS 50
#define RETRY_PAUSE_S 1

typedef enum Message
{
	PROBE,
	SYNCREP_OFF,
	PROMOTE
} Message;

typedef enum Step
{
	ASK,						/* connect, send, await the answer */
	PAUSE,						/* before the next attempt */
	ANSWERED,
	FAILED,
	DONE
} Step;

typedef struct Answer
{
	bool		mirror_up;
	bool		in_sync;
	bool		syncrep_on;
	bool		role_mirror;
	bool		retry;
} Answer;

typedef struct Pair
{
	Instance   *primary;		/* failover swaps the two */
	Instance   *mirror;
	Message		message;
	Step		step;
	PGconn	   *conn;
	bool		connected;
	short		events;			/* that the connection waits for */
	short		seen;
	time_t		asked_at;
	time_t		paused_at;
	int			attempts;
	bool		recovering;		/* the primary said so in the last attempt */
	Answer		answer;
} Pair;

static const char *const message_names[] = {"PROBE", "SYNCREP_OFF", "PROMOTE"};

static void
hang_up(Pair *pair)
{
	if (pair->conn)
		PQfinish(pair->conn);
	pair->conn = NULL;
	pair->connected = false;
	pair->events = pair->seen = 0;
}

static void
start_message(Pair *pair, Message message)
{
	hang_up(pair);
	memset(&pair->answer, 0, sizeof(pair->answer));
	pair->message = message;
	pair->attempts = 0;
	pair->step = ASK;
}

static void
fail_attempt(Pair *pair, const char *what)
{
	const char *words = pair->conn ? PQerrorMessage(pair->conn) : "";

	pair->recovering = strstr(words, "the database system is in recovery mode") ||
		strstr(words, "the database system is starting up");
	ereport(LOG,
			(errmsg("FTS: %s (content=%d, dbid=%d): %s, retry_count=%d", what,
					pair->primary->content, pair->primary->dbid, words, pair->attempts)));
	pair->step = FAILED;
}

static void
begin_connection(Pair *pair)
{
	pair->recovering = false;
	pair->conn = peer_connect_start(pair->primary, PEER_FTS);
	pair->asked_at = time(NULL);
	pair->events = POLLOUT;
	if (pair->conn == NULL || PQstatus(pair->conn) == CONNECTION_BAD)
		fail_attempt(pair, "cannot establish libpq connection to");
}

static void
send_message(Pair *pair)
{
	char		sql[160];

	snprintf(sql, sizeof(sql), "SELECT * FROM pg_catalog.gp_standin_fts_message('%s', %d, %d)",
			 message_names[pair->message], pair->primary->dbid, pair->primary->content);
	if (PQsendQuery(pair->conn, sql))
		pair->events = POLLIN;
	else
		fail_attempt(pair, "failed to send message to");
}

static void
advance_connection(Pair *pair)
{
	switch (PQconnectPoll(pair->conn))
	{
		case PGRES_POLLING_OK:
			pair->connected = true;
			send_message(pair);
			break;
		case PGRES_POLLING_READING:
			pair->events = POLLIN;
			break;
		case PGRES_POLLING_WRITING:
			pair->events = POLLOUT;
			break;
		default:
			fail_attempt(pair, "cannot establish libpq connection");
	}
}

static void
take_answer(Pair *pair, PGresult *result)
{
	bool	   *fields[] = {&pair->answer.mirror_up, &pair->answer.in_sync, &pair->answer.syncrep_on,
	&pair->answer.role_mirror, &pair->answer.retry};
	int			i;

	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1 ||
		PQnfields(result) != lengthof(fields))
	{
		fail_attempt(pair, "error response from");
		return;
	}
	for (i = 0; i < lengthof(fields); i++)
		*fields[i] = PQgetvalue(result, 0, i)[0] == 't';
	pair->step = ANSWERED;
}

static void
receive_answer(Pair *pair)
{
	PGresult   *result;

	if (!PQconsumeInput(pair->conn))
	{
		fail_attempt(pair, "failed to read from");
		return;
	}
	if (PQisBusy(pair->conn))
		return;
	result = PQgetResult(pair->conn);
	if (result)
		take_answer(pair, result);
	else
		fail_attempt(pair, "error getting results from");
	PQclear(result);
}

/* Greenplum counts whole seconds of the wall clock, here and in the pauses. */
static void
check_timeout(Pair *pair, time_t now)
{
	if (pair->step == ASK && now - pair->asked_at > gp_fts_probe_timeout)
	{
		ereport(LOG, (errmsg("FTS timeout detected for (content=%d, dbid=%d) retry_count=%d",
							 pair->primary->content, pair->primary->dbid, pair->attempts)));
		pair->step = FAILED;
	}
}

static void
ask(Pair *pair)
{
	if (pair->conn == NULL)
		begin_connection(pair);
	else if (pair->seen && !pair->connected)
		advance_connection(pair);
	else if (pair->seen)
		receive_answer(pair);
	pair->seen = 0;
	check_timeout(pair, time(NULL));
}

static bool
wants_another_attempt(const Pair *pair)
{
	if (pair->step == FAILED)
		return true;
	/* A mirror that is marked down already needs no grace. */
	return pair->step == ANSWERED && pair->message == PROBE &&
		pair->answer.retry && pair->mirror->status == 'u';
}

static void
retry(Pair *pair)
{
	time_t		now = time(NULL);

	if (pair->step == PAUSE && now - pair->paused_at >= RETRY_PAUSE_S)
		pair->step = ASK;
	else if (wants_another_attempt(pair))
	{
		if (pair->attempts == gp_fts_probe_retries)
		{
			ereport(LOG, (errmsg("FTS max (%d) retries exhausted (content=%d, dbid=%d)",
								 pair->attempts, pair->primary->content, pair->primary->dbid)));
			return;
		}
		pair->attempts++;
		pair->paused_at = now;
		pair->step = PAUSE;
		hang_up(pair);
		memset(&pair->answer, 0, sizeof(pair->answer));
	}
}

/* Writes what differs from the rows. A change of sync touches both of them. */
static bool
record(const Pair *pair, char primary_role, bool primary_up, char mirror_role, bool mirror_up, bool in_sync)
{
	bool		sync_changes = in_sync != (pair->primary->mode == 's');
	bool		touch_primary = sync_changes || primary_up != (pair->primary->status == 'u');
	bool		touch_mirror = sync_changes || mirror_up != (pair->mirror->status == 'u');

	if (!touch_primary && !touch_mirror)
		return false;
	update_pair(pair->primary, primary_role, primary_up, pair->mirror, mirror_role, mirror_up,
				in_sync, touch_primary, touch_mirror);
	return true;
}

static void
double_fault(Pair *pair)
{
	ereport(WARNING, (errmsg("FTS double fault detected (content=%d) primary dbid=%d, mirror dbid=%d",
							 pair->primary->content, pair->primary->dbid, pair->mirror->dbid)));
	pair->step = DONE;
}

/* The catalog changes first; only then is the mirror told. */
static bool
fail_over(Pair *pair)
{
	Instance   *dead = pair->primary;
	bool		changed = record(pair, 'm', false, 'p', pair->mirror->status == 'u', false);

	pair->primary = pair->mirror;
	pair->mirror = dead;
	start_message(pair, PROMOTE);
	return changed;
}

static bool
judge_failed_probe(Pair *pair)
{
	if (pair->recovering)
	{
		pair->step = DONE;
		return false;
	}
	if (pair->mirror->mode == 's')
		return fail_over(pair);
	double_fault(pair);
	return false;
}

static bool
judge_answered_probe(Pair *pair)
{
	Answer		answer = pair->answer;
	bool		changed = false;

	if (answer.syncrep_on && !answer.mirror_up)
	{
		if (answer.retry)
		{
			pair->step = DONE;
			return false;
		}
		changed = record(pair, 'p', true, 'm', false, answer.in_sync);
		start_message(pair, SYNCREP_OFF);
	}
	else if (answer.role_mirror)
		start_message(pair, PROMOTE);	/* an earlier one did not arrive */
	else
	{
		changed = record(pair, 'p', true, 'm', answer.mirror_up, answer.in_sync);
		pair->step = DONE;
	}
	return changed;
}

static bool
judge(Pair *pair)
{
	bool		failed = pair->step == FAILED;

	switch (pair->message)
	{
		case PROBE:
			return failed ? judge_failed_probe(pair) : judge_answered_probe(pair);
		case SYNCREP_OFF:
			if (failed)
				ereport(WARNING, (errmsg("FTS failed to turn off syncrep on (content=%d, dbid=%d)",
										 pair->primary->content, pair->primary->dbid)));
			break;
		case PROMOTE:
			if (failed)
				double_fault(pair);
			break;
	}
	pair->step = DONE;
	return false;
}

static bool
advance(Pair *pair)
{
	bool		changed = false;

	if (pair->step == ASK)
		ask(pair);
	if (pair->step != DONE && pair->step != ASK)
		retry(pair);
	if (pair->step == ANSWERED || pair->step == FAILED)
		changed = judge(pair);
	if (pair->step == DONE)
		hang_up(pair);
	return changed;
}

static void
await_peers(Pair *pairs, int count)
{
	struct pollfd *sockets = palloc0(count * sizeof(struct pollfd));
	int			i;

	for (i = 0; i < count; i++)
	{
		sockets[i].fd = pairs[i].events ? PQsocket(pairs[i].conn) : -1;
		sockets[i].events = pairs[i].events;
	}
	if (poll(sockets, count, POLL_MS) > 0)
		for (i = 0; i < count; i++)
			pairs[i].seen = sockets[i].revents;
	pfree(sockets);
}

static int
collect_pairs(List *instances, Pair *pairs)
{
	int			count = 0;
	ListCell   *cell;

	foreach(cell, instances)
	{
		Instance   *one = lfirst(cell);
		Instance   *mirror;

		if (one->content < 0 || one->role != 'p')
			continue;
		mirror = find_instance(instances, one->content, 'm');
		if (mirror)
			pairs[count++] = (Pair) {.primary = one, .mirror = mirror};
	}
	return count;
}

/* True when the catalog was changed. */
bool
fts_scan(List *instances)
{
	Pair	   *pairs = palloc0((list_length(instances) + 1) * sizeof(Pair));
	int			count = collect_pairs(instances, pairs);
	bool		changed = false;
	int			open;

	do
	{
		int			i;

		open = 0;
		for (i = 0; i < count; i++)
		{
			if (pairs[i].step != DONE)
				changed |= advance(&pairs[i]);
			open += pairs[i].step != DONE;
		}
		CHECK_FOR_INTERRUPTS();
		if (open)
			await_peers(pairs, count);
	} while (open);
	return changed;
}
