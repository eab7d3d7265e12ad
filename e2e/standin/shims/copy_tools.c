/*
 * Preloaded into pg_basebackup and pg_rewind: what Greenplum's forks of the two
 * do differently with the target's files. Told by the wrappers what to do:
 *
 *   GP_TARGET           the target data directory
 *   GP_FORCE_OVERWRITE  a directory that arrives replaces the one that is there;
 *                       what does not arrive stays
 *   GP_EXCLUDE          paths below the target, one a line, that are not taken
 *   GP_DBID             written to internal.auto.conf at the end
 *   GP_RECOVERY_SLOT    added to the recovery settings at the end
 *
 * A shim and not a second process, so that a kill at any moment leaves what it
 * leaves with Greenplum.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OWN_SETTINGS "internal.auto.conf"
#define RECOVERY_SETTINGS "postgresql.auto.conf"
#define MAX_LISTED 64

static char target[PATH_MAX];
static const char *exclude;
static int	force;
static pid_t starter;

static DIR *emptied[MAX_LISTED];	/* directories that must look empty */
static char looked_at[MAX_LISTED][PATH_MAX];
static int	looked_at_count;

static void finish(int status, void *unused);

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void
begin(void)
{
	const char *dir = getenv("GP_TARGET");

	unsetenv("LD_PRELOAD");
	if (dir == NULL)
		return;
	snprintf(target, sizeof(target), "%s", dir);
	exclude = getenv("GP_EXCLUDE");
	force = getenv("GP_FORCE_OVERWRITE") != NULL;
	starter = getpid();
	on_exit(finish, NULL);
}

/* The part of a path below the target; NULL when it lies elsewhere. */
static const char *
below_target(const char *path)
{
	size_t		length = strlen(target);

	if (length == 0 || strncmp(path, target, length) != 0 || path[length] != '/')
		return NULL;
	path += length;
	while (*path == '/' || (path[0] == '.' && path[1] == '/'))
		path++;
	return path;
}

static int
is_listed(const char *below)
{
	const char *line = exclude;

	while (line && *line)
	{
		size_t		length = strcspn(line, "\n");

		if (length > 0 && strncmp(below, line, length) == 0 && (below[length] == '\0' || below[length] == '/'))
			return 1;
		line += length + (line[length] == '\n');
	}
	return 0;
}

/* Never taken from the source: it says who the target is. */
static int
stays_out(const char *path)
{
	const char *below = below_target(path);

	return below && (strcmp(below, OWN_SETTINGS) == 0 || is_listed(below));
}

static int
remove_one(const char *path, const struct stat *unused, int kind, struct FTW *position)
{
	return remove(path);
}

/* The log folder stays, and pg_wal is filled by another process meanwhile. */
static int
is_replaced(const char *path)
{
	const char *below = below_target(path);

	return below && strcmp(below, "log") != 0 && strcmp(below, "pg_wal") != 0
		&& strncmp(below, "pg_wal/", 7) != 0;
}

int
mkdir(const char *path, mode_t mode)
{
	int			result = REAL(mkdir) (path, mode);

	if (result == 0 || errno != EEXIST || !force || below_target(path) == NULL)
		return result;
	if (!is_replaced(path))
		return 0;
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return REAL(mkdir) (path, mode);
}

static FILE *
open_stream(FILE *(*real) (const char *, const char *), const char *path, const char *mode)
{
	if (mode[0] == 'w' && stays_out(path))
		return real("/dev/null", mode);
	if (mode[0] == 'w' && force && below_target(path))
		unlink(path);
	return real(path, mode);
}

FILE *
fopen(const char *path, const char *mode)
{
	return open_stream(REAL(fopen), path, mode);
}

FILE *
fopen64(const char *path, const char *mode)
{
	return open_stream(REAL(fopen64), path, mode);
}

int
chmod(const char *path, mode_t mode)
{
	return stays_out(path) ? 0 : REAL(chmod) (path, mode);
}

/* pg_rewind writes by descriptor. It opens for reading and writing only to sync. */
static const char *
redirected(const char *path, int flags)
{
	return (flags & O_ACCMODE) == O_WRONLY && stays_out(path) ? "/dev/null" : path;
}

static mode_t
mode_of(int flags, va_list rest)
{
	return (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
}

int
open(const char *path, int flags,...)
{
	va_list		rest;
	mode_t		mode;

	va_start(rest, flags);
	mode = mode_of(flags, rest);
	va_end(rest);
	return REAL(open) (redirected(path, flags), flags, mode);
}

int
open64(const char *path, int flags,...)
{
	va_list		rest;
	mode_t		mode;

	va_start(rest, flags);
	mode = mode_of(flags, rest);
	va_end(rest);
	return REAL(open64) (redirected(path, flags), flags, mode);
}

/* The tool checks once whether a directory is empty, and that check must pass. */
static int
first_look(const char *path)
{
	int			i;

	for (i = 0; i < looked_at_count; i++)
		if (strcmp(looked_at[i], path) == 0)
			return 0;
	if (looked_at_count == MAX_LISTED)
		return 0;
	snprintf(looked_at[looked_at_count++], PATH_MAX, "%s", path);
	return 1;
}

DIR *
opendir(const char *path)
{
	DIR		   *dir = REAL(opendir) (path);
	int			place = looked_at_count;

	/* What lies below the target is opened to be synced, not to be checked. */
	if (dir && force && below_target(path) == NULL && first_look(path))
		emptied[place] = dir;
	return dir;
}

int
closedir(DIR *dir)
{
	int			i;

	for (i = 0; i < looked_at_count; i++)
		if (emptied[i] == dir)
			emptied[i] = NULL;
	return REAL(closedir) (dir);
}

static int
looks_empty(DIR *dir)
{
	int			i;

	for (i = 0; i < looked_at_count; i++)
		if (emptied[i] == dir)
			return 1;
	return 0;
}

struct dirent *
readdir(DIR *dir)
{
	return looks_empty(dir) ? NULL : REAL(readdir) (dir);
}

struct dirent64 *
readdir64(DIR *dir)
{
	return looks_empty(dir) ? NULL : REAL(readdir64) (dir);
}

static FILE *
open_in_target(const char *name, const char *mode)
{
	char		path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", target, name) >= (int) sizeof(path))
		return NULL;
	return REAL(fopen) (path, mode);
}

static int
close_synced(FILE *file)
{
	int			failed = fflush(file) != 0 || fsync(fileno(file)) != 0;

	return fclose(file) != 0 || failed;
}

static int
write_own_settings(const char *dbid)
{
	FILE	   *file = open_in_target(OWN_SETTINGS, "w");

	if (file == NULL)
		return 1;
	fprintf(file, "gp_dbid=%s\n", dbid);
	return close_synced(file);
}

static char *
read_whole(FILE *file)
{
	char	   *text = NULL;
	size_t		room = 0;
	ssize_t		length = getdelim(&text, &room, '\0', file);

	if (length < 0)
	{
		free(text);
		text = strdup("");
	}
	return text;
}

/* The last one is the one just written. */
static char *
last_setting(char *text, const char *name)
{
	char	   *last = NULL;
	char	   *found = text;

	while ((found = strstr(found, name)) != NULL)
		last = found++;
	return last;
}

/* The closing quote of the setting's line. */
static char *
closing_quote(char *setting)
{
	char	   *at = setting + strcspn(setting, "\n");

	while (at > setting && *at != '\'')
		at--;
	return at > setting ? at : NULL;
}

static int
write_recovery_settings(const char *text, const char *quote, const char *slot, int has_slot)
{
	FILE	   *file = open_in_target(RECOVERY_SETTINGS, "w");

	if (file == NULL)
		return 1;
	fprintf(file, "%.*s application_name=gp_walreceiver%s", (int) (quote - text), text, quote);
	if (!has_slot && *slot)
		fprintf(file, "primary_slot_name = '%s'\n", slot);
	return close_synced(file);
}

static int
complete_recovery_settings(const char *slot)
{
	FILE	   *file = open_in_target(RECOVERY_SETTINGS, "r");
	char	   *text;
	char	   *setting;
	char	   *quote;
	int			failed = 1;

	if (file == NULL)
		return 1;
	text = read_whole(file);
	fclose(file);
	setting = last_setting(text, "primary_conninfo");
	quote = setting ? closing_quote(setting) : NULL;
	if (quote)
		failed = write_recovery_settings(text, quote, slot, strstr(setting, "primary_slot_name") != NULL);
	free(text);
	return failed;
}

/* Only after success, and not in the child that receives WAL. */
static void
finish(int status, void *unused)
{
	const char *dbid = getenv("GP_DBID");
	const char *slot = getenv("GP_RECOVERY_SLOT");
	int			failed = 0;

	if (status != 0 || getpid() != starter)
		return;
	if (dbid)
		failed = write_own_settings(dbid);
	if (slot)
		failed |= complete_recovery_settings(slot);
	if (failed)
	{
		fprintf(stderr, "could not write the settings of the mirror in \"%s\": %s\n", target, strerror(errno));
		_exit(1);
	}
}
