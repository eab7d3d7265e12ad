/*
 * Greenplum's settings. PostgreSQL reads command line and files before it loads
 * libraries and refuses names without a dot that it does not know. So the
 * `postgres` wrapper takes such settings off the command line (and hands them
 * over in GP_STANDIN_SETTINGS), and the conf_names shim hides them in files,
 * until this code has defined them and reads the files once more.
 */
#include "gp_standin.h"

#include <dlfcn.h>

#include "miscadmin.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

#define SETTINGS_ENV "GP_STANDIN_SETTINGS"
#define UNSET_IDENTITY (-10000)

PGDLLEXPORT void _PG_init(void);

int			gp_role = GP_ROLE_UTILITY;
int			gp_dbid = UNSET_IDENTITY;
int			gp_contentid = UNSET_IDENTITY;
int			gp_fts_probe_interval = 60;
int			gp_fts_probe_timeout = 20;
int			gp_fts_probe_retries = 5;
int			gp_fts_mark_mirror_down_grace_period = 30;
int			gp_fts_replication_attempt_count = 10;
int			gp_segment_connect_timeout = 180;
GpRole		started_as = GP_ROLE_UTILITY;

static int	gp_session_role = GP_ROLE_UTILITY;
static char *connection_kind = NULL;
static char *server_version = NULL;

static const struct config_enum_entry role_names[] = {
	{"utility", GP_ROLE_UTILITY, false},
	{"dispatch", GP_ROLE_DISPATCH, false},
	{"execute", GP_ROLE_EXECUTE, false},
	{NULL, 0, false}
};

/* The alias sets the real one, but only when a session asked for it. */
static void
take_former_name(int value, void *extra)
{
	if (MyProcPort)
		gp_role = value;
}

static void
define_identity(void)
{
	DefineCustomEnumVariable("gp_role", "Role of this server or session.", NULL,
							 &gp_role, GP_ROLE_UTILITY, role_names,
							 PGC_BACKEND, GUC_DISALLOW_IN_FILE, NULL, NULL, NULL);
	/* Greenplum 7 keeps the name of 6 as an alias. */
	DefineCustomEnumVariable("gp_session_role", "Former name of gp_role.", NULL,
							 &gp_session_role, GP_ROLE_UTILITY, role_names,
							 PGC_BACKEND, GUC_DISALLOW_IN_FILE, NULL, take_former_name, NULL);
	DefineCustomIntVariable("gp_dbid", "Id of this instance in the cluster.", NULL,
							&gp_dbid, UNSET_IDENTITY, UNSET_IDENTITY, PG_INT16_MAX,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gp_contentid", "Content served by this instance.", NULL,
							&gp_contentid, UNSET_IDENTITY, UNSET_IDENTITY, PG_INT16_MAX,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("gp_server_version", "Version of Greenplum answered for.", NULL,
							   &server_version, "7.0.0 stand-in",
							   PGC_INTERNAL, GUC_DISALLOW_IN_FILE, NULL, NULL, NULL);
	DefineCustomStringVariable("gp_standin.connection", "Set by the prober and by dispatch.", NULL,
							   &connection_kind, "", PGC_BACKEND, 0, NULL, NULL, NULL);
}

static void
define_seconds(const char *name, const char *what, int *value, int normal, int least)
{
	DefineCustomIntVariable(name, what, NULL, value, normal, least, 3600,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

static void
define_fts(void)
{
	define_seconds("gp_fts_probe_interval", "Seconds between full scans.",
				   &gp_fts_probe_interval, 60, 10);
	define_seconds("gp_fts_probe_timeout", "Seconds that one attempt may take.",
				   &gp_fts_probe_timeout, 20, 0);
	define_seconds("gp_fts_mark_mirror_down_grace_period",
				   "Seconds before a mirror that is gone is called down.",
				   &gp_fts_mark_mirror_down_grace_period, 30, 0);
	define_seconds("gp_segment_connect_timeout", "Seconds that dispatch waits for a segment.",
				   &gp_segment_connect_timeout, 180, 0);
	DefineCustomIntVariable("gp_fts_probe_retries", "Attempts before a primary is called dead.",
							NULL, &gp_fts_probe_retries, 5, 0, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gp_fts_replication_attempt_count",
							"Failed attempts of the mirror after which there is no grace.",
							NULL, &gp_fts_replication_attempt_count, 10, 0, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/* One "name=value" a line, as the wrapper found them on the command line. */
static void
apply_command_line(void)
{
	char	   *lines = getenv(SETTINGS_ENV);
	char	   *line;
	char	   *next;

	if (lines == NULL)
		return;
	lines = pstrdup(lines);
	for (line = strtok_r(lines, "\n", &next); line; line = strtok_r(NULL, "\n", &next))
	{
		char	   *equals = strchr(line, '=');

		if (equals == NULL)
			ereport(FATAL, (errmsg("-c %s requires a value", line)));
		*equals = '\0';
		SetConfigOption(line, equals + 1, PGC_POSTMASTER, PGC_S_ARGV);
	}
	pfree(lines);
}

/* From here on the files are read as they are. */
static void
reread_files(void)
{
	int		   *names_known = dlsym(RTLD_DEFAULT, "gp_names_known");

	if (names_known)
		*names_known = 1;
	ProcessConfigFile(PGC_POSTMASTER);
}

static void
check_identity(void)
{
	if (!IsPostmasterEnvironment || started_as == GP_ROLE_UTILITY)
		return;
	if (gp_dbid <= 0)
		ereport(FATAL,
				(errmsg("dbid (from -b option) is not specified or is invalid"),
				 errhint("internal.auto.conf must name gp_dbid, and postgresql.conf must include it.")));
	if (gp_contentid < COORDINATOR_CONTENT)
		ereport(FATAL, (errmsg("contentid is not specified or is invalid")));
}

bool
serves_as_coordinator(void)
{
	return started_as == GP_ROLE_DISPATCH && gp_contentid == COORDINATOR_CONTENT;
}

void
settings_init(void)
{
	define_identity();
	define_fts();
	apply_command_line();
	reread_files();
	started_as = gp_role;
	check_identity();
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR, (errmsg("gp_standin must be loaded through shared_preload_libraries")));
	settings_init();
	shared_init();
	access_init();
	catalog_guard_init();
	activation_init();
	if (serves_as_coordinator() && IsPostmasterEnvironment)
	{
		fts_register_worker();
		dispatch_register_worker();
	}
}
