/* The little memory that all processes of an instance share. */
#include "gp_standin.h"

#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "miscadmin.h"

ClusterState *cluster_state = NULL;

static shmem_request_hook_type next_request_hook = NULL;
static shmem_startup_hook_type next_startup_hook = NULL;

static void
request_memory(void)
{
	if (next_request_hook)
		next_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(ClusterState)));
}

static void
attach_memory(void)
{
	bool		found;

	if (next_startup_hook)
		next_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cluster_state = ShmemInitStruct("gp_standin", sizeof(ClusterState), &found);
	if (!found)
	{
		memset(cluster_state, 0, sizeof(*cluster_state));
		SpinLockInit(&cluster_state->lock);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
shared_init(void)
{
	next_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_memory;
}
