/*
 * What the parts of the stand-in module share. The module makes a PostgreSQL 15
 * server answer as a Greenplum 7 coordinator, primary or mirror.
 */
#ifndef GP_STANDIN_H
#define GP_STANDIN_H

#include "postgres.h"

#include <time.h>

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "pgtime.h"
#include "libpq-fe.h"
#include "storage/latch.h"
#include "storage/spin.h"
#include "utils/wait_event.h"

#define COORDINATOR_CONTENT (-1)
#define WALRECEIVER_NAME "gp_walreceiver"
#define WAL_SLOT "internal_wal_replication_slot"
#define CATALOG_DATABASE "postgres"

typedef enum GpRole
{
	GP_ROLE_UTILITY,
	GP_ROLE_DISPATCH,
	GP_ROLE_EXECUTE
} GpRole;

/* Who is at the other end of a connection that the cluster itself makes. */
typedef enum PeerKind
{
	PEER_CLIENT,				/* anybody */
	PEER_FTS,					/* the coordinator's prober */
	PEER_QE						/* a dispatched statement */
} PeerKind;

/* settings.c */
extern int	gp_role;
extern int	gp_dbid;
extern int	gp_contentid;
extern int	gp_fts_probe_interval;
extern int	gp_fts_probe_timeout;
extern int	gp_fts_probe_retries;
extern int	gp_fts_mark_mirror_down_grace_period;
extern int	gp_fts_replication_attempt_count;
extern int	gp_segment_connect_timeout;
extern GpRole started_as;

extern void settings_init(void);
extern bool serves_as_coordinator(void);

/* shared.c */
typedef struct ClusterState
{
	slock_t		lock;
	int64		scans_begun;
	int64		scans_done;
	bool		scan_requested;
	Latch	   *prober;			/* of the FTS worker; NULL while there is none */
	bool		segments_reached;	/* distributed recovery is over */
	pg_time_t	accepting_since;	/* as a primary; 0 = nobody has come yet */
	pg_time_t	mirror_gone_at;
	int			failed_attempts;	/* of the mirror to stream, in a row */
} ClusterState;

extern ClusterState *cluster_state;
extern void shared_init(void);

/* access.c, catalog_guard.c */
extern void access_init(void);
extern void catalog_guard_init(void);
extern bool catalog_writes_allowed;

/* activation.c */
extern void activation_init(void);
extern void finish_activation(void);

/* topology.c */
typedef struct Instance
{
	int			dbid;
	int			content;
	char		role;
	char		mode;
	char		status;
	int			port;
	char	   *address;
} Instance;

extern List *read_topology(void);
extern Instance *find_instance(List *all, int content, char role);
extern void update_pair(const Instance *primary, char primary_role, bool primary_up,
						const Instance *mirror, char mirror_role, bool mirror_up,
						bool in_sync, bool touch_primary, bool touch_mirror);

/* peers.c */
extern PGconn *peer_connect_start(const Instance *to, PeerKind kind);
extern PGconn *peer_connect(const Instance *to, PeerKind kind, int timeout_s);
extern PGresult *peer_ask(PGconn *conn, const char *sql);

/* fts.c, fts_probe.c, dispatch.c */
extern void fts_register_worker(void);
extern void fts_request_scan(void);
extern bool fts_scan(List *instances);
extern void dispatch_register_worker(void);

#endif
