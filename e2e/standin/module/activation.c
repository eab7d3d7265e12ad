/*
 * What the promotion of the coordinator's standby does to the catalog: the row
 * of the old coordinator goes, its own becomes that of the acting one. In
 * Greenplum the startup process does so at the end of recovery; here whichever
 * worker starts first after it. No history row is written, and no dbid changes.
 */
#include "gp_standin.h"

#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/snapmgr.h"

static bool began_as_standby = false;

static void
run(const char *sql, int expected)
{
	Oid			types[] = {INT2OID};
	Datum		values[] = {Int16GetDatum(gp_dbid)};

	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != expected)
		elog(ERROR, "could not run: %s", sql);
}

/* A directory that lost its signal file in another way was not promoted. */
void
activation_init(void)
{
	began_as_standby = serves_as_coordinator() && access(STANDBY_SIGNAL_FILE, F_OK) == 0;
}

/* Once: afterwards the own row is no mirror's. */
void
finish_activation(void)
{
	if (!began_as_standby)
		return;
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	catalog_writes_allowed = true;
	run("LOCK TABLE pg_catalog.gp_segment_configuration IN ACCESS EXCLUSIVE MODE", SPI_OK_UTILITY);
	run("DELETE FROM pg_catalog.gp_segment_configuration WHERE content = -1 AND role = 'p'"
		" AND EXISTS (SELECT FROM pg_catalog.gp_segment_configuration WHERE dbid = $1 AND role = 'm')", SPI_OK_DELETE);
	run("UPDATE pg_catalog.gp_segment_configuration SET role = 'p', preferred_role = 'p'"
		" WHERE dbid = $1 AND role = 'm'", SPI_OK_UPDATE);
	catalog_writes_allowed = false;
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}
