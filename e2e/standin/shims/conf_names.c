/*
 * Preloaded into postgres. PostgreSQL refuses unknown names without a dot in its
 * configuration files, and reads them before it loads libraries. Until the
 * module has defined Greenplum's settings (and set gp_names_known), lines that
 * begin with gp_ are shown to the server as comments.
 */
#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int			gp_names_known = 0;

typedef FILE *(*Opener) (const char *, const char *);

/* What runs below postgres is none of this shim's business. */
__attribute__((constructor)) static void
leave_environment(void)
{
	unsetenv("LD_PRELOAD");
}

static int
is_configuration(const char *path)
{
	size_t		length = strlen(path);

	return length > 5 && strcmp(path + length - 5, ".conf") == 0 && strstr(path, "pg_hba") == NULL
		&& strstr(path, "pg_ident") == NULL;
}

static void
copy_line(FILE *to, const char *line)
{
	const char *word = line;

	while (isblank((unsigned char) *word))
		word++;
	if (strncmp(word, "gp_", 3) == 0)
		fputc('#', to);
	fputs(line, to);
}

/* Not tmpfile(): a container may have no writable /tmp. */
static FILE *
open_scratch(void)
{
	int			fd = memfd_create("postgresql.conf", MFD_CLOEXEC);

	return fd < 0 ? NULL : fdopen(fd, "w+");
}

static FILE *
without_unknown_names(FILE *file)
{
	FILE	   *shown = open_scratch();
	char	   *line = NULL;
	size_t		room = 0;

	if (shown == NULL)
		return file;
	while (getline(&line, &room, file) > 0)
		copy_line(shown, line);
	free(line);
	fclose(file);
	rewind(shown);
	return shown;
}

static FILE *
open_with(const char *symbol, const char *path, const char *mode)
{
	FILE	   *file = ((Opener) dlsym(RTLD_NEXT, symbol)) (path, mode);

	if (file == NULL || gp_names_known || mode[0] != 'r' || !is_configuration(path))
		return file;
	return without_unknown_names(file);
}

FILE *
fopen(const char *path, const char *mode)
{
	return open_with("fopen", path, mode);
}

FILE *
fopen64(const char *path, const char *mode)
{
	return open_with("fopen64", path, mode);
}
