/* The FTS worker of a coordinator in dispatch mode, and asking it for a scan. */
#include "gp_standin.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define SCAN_WAIT_MS 20
#define RESTART_S 1

PGDLLEXPORT void gp_standin_fts_main(Datum argument);

void
fts_register_worker(void)
{
	BackgroundWorker worker = {
		.bgw_name = "ftsprobe",
		.bgw_type = "ftsprobe",
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = RESTART_S,
		.bgw_library_name = "gp_standin",
		.bgw_function_name = "gp_standin_fts_main",
	};

	RegisterBackgroundWorker(&worker);
}

static void
forget_prober(int code, Datum arg)
{
	SpinLockAcquire(&cluster_state->lock);
	cluster_state->prober = NULL;
	SpinLockRelease(&cluster_state->lock);
}

static void
announce_prober(void)
{
	on_shmem_exit(forget_prober, (Datum) 0);
	SpinLockAcquire(&cluster_state->lock);
	cluster_state->prober = &MyProc->procLatch;
	SpinLockRelease(&cluster_state->lock);
}

static List *
read_topology_in(MemoryContext context)
{
	List	   *all;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	all = read_topology();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return all;
}

static void
one_scan(MemoryContext context)
{
	SpinLockAcquire(&cluster_state->lock);
	cluster_state->scans_begun++;
	cluster_state->scan_requested = false;
	SpinLockRelease(&cluster_state->lock);

	fts_scan(read_topology_in(context));
	MemoryContextReset(context);

	SpinLockAcquire(&cluster_state->lock);
	cluster_state->scans_done = cluster_state->scans_begun;
	SpinLockRelease(&cluster_state->lock);
}

static long
ms_until_next_scan(time_t begun)
{
	long		elapsed = (long) (time(NULL) - begun);
	bool		requested;

	SpinLockAcquire(&cluster_state->lock);
	requested = cluster_state->scan_requested;
	SpinLockRelease(&cluster_state->lock);
	if (requested || elapsed >= gp_fts_probe_interval)
		return 0;
	return (gp_fts_probe_interval - elapsed) * 1000L;
}

static void
await_next_scan(time_t begun)
{
	long		pause;

	while ((pause = ms_until_next_scan(begun)) > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 pause, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

void
gp_standin_fts_main(Datum argument)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "FTS scan", ALLOCSET_DEFAULT_SIZES);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(CATALOG_DATABASE, NULL, 0);
	finish_activation();
	announce_prober();
	for (;;)
	{
		time_t		begun = time(NULL);

		one_scan(context);
		await_next_scan(begun);
	}
}

static int64
scans(bool done)
{
	int64		count;

	SpinLockAcquire(&cluster_state->lock);
	count = done ? cluster_state->scans_done : cluster_state->scans_begun;
	SpinLockRelease(&cluster_state->lock);
	return count;
}

/* A scan under way does not count: the caller wants one that began after it asked. */
void
fts_request_scan(void)
{
	int64		before = scans(false);

	SpinLockAcquire(&cluster_state->lock);
	cluster_state->scan_requested = true;
	if (cluster_state->prober)
		SetLatch(cluster_state->prober);
	SpinLockRelease(&cluster_state->lock);
	while (scans(true) <= before)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 SCAN_WAIT_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

PG_FUNCTION_INFO_V1(gp_request_fts_probe_scan);

Datum
gp_request_fts_probe_scan(PG_FUNCTION_ARGS)
{
	if (gp_role != GP_ROLE_DISPATCH)
		ereport(ERROR, (errmsg("this function can only be called by coordinator (without utility mode)")));
	fts_request_scan();
	PG_RETURN_BOOL(true);
}
