/* gp_segment_configuration, read and (by FTS alone) written. */
#include "gp_standin.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

static char
char_column(HeapTuple row, int column)
{
	bool		null;

	return DatumGetChar(SPI_getbinval(row, SPI_tuptable->tupdesc, column, &null));
}

static int
small_column(HeapTuple row, int column)
{
	bool		null;

	return DatumGetInt16(SPI_getbinval(row, SPI_tuptable->tupdesc, column, &null));
}

static Instance *
to_instance(HeapTuple row)
{
	Instance   *one = palloc0(sizeof(Instance));
	bool		null;

	one->dbid = small_column(row, 1);
	one->content = small_column(row, 2);
	one->role = char_column(row, 3);
	one->mode = char_column(row, 4);
	one->status = char_column(row, 5);
	one->port = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 6, &null));
	one->address = SPI_getvalue(row, SPI_tuptable->tupdesc, 7);
	return one;
}

/* All rows, in the caller's memory context. Needs a transaction and a snapshot. */
List *
read_topology(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *all = NIL;
	uint64		i;

	SPI_connect();
	if (SPI_execute("SELECT dbid, content, role, mode, status, port, address"
					" FROM pg_catalog.gp_segment_configuration ORDER BY content, dbid",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "cannot read gp_segment_configuration");
	for (i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		all = lappend(all, to_instance(SPI_tuptable->vals[i]));
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	MemoryContextSwitchTo(caller);
	return all;
}

Instance *
find_instance(List *all, int content, char role)
{
	ListCell   *cell;

	foreach(cell, all)
	{
		Instance   *one = lfirst(cell);

		if (one->content == content && one->role == role)
			return one;
	}
	return NULL;
}

static void
update_row(const Instance *one, char role, bool up, bool in_sync)
{
	Oid			types[] = {INT2OID, TEXTOID, CHAROID, CHAROID, CHAROID};
	char		status = up ? 'u' : 'd';
	char		mode = in_sync ? 's' : 'n';
	char	   *text = psprintf("FTS: update role, status, and mode for dbid %d with contentid %d to %c, %c, and %c",
								one->dbid, one->content, role, status, mode);
	Datum		values[] = {Int16GetDatum(one->dbid), CStringGetTextDatum(text),
	CharGetDatum(role), CharGetDatum(status), CharGetDatum(mode)};

	if (SPI_execute_with_args("INSERT INTO pg_catalog.gp_configuration_history"
							  " VALUES (pg_catalog.clock_timestamp(), $1, $2)",
							  5, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "cannot write gp_configuration_history");
	if (SPI_execute_with_args("UPDATE pg_catalog.gp_segment_configuration"
							  " SET role = $3, status = $4, mode = $5 WHERE dbid = $1",
							  5, types, values, NULL, false, 0) != SPI_OK_UPDATE
		|| SPI_processed != 1)
		elog(ERROR, "FTS cannot find dbid=%d in gp_segment_configuration", one->dbid);
}

/* Both rows of a pair change in one transaction, or neither does. */
void
update_pair(const Instance *primary, char primary_role, bool primary_up,
			const Instance *mirror, char mirror_role, bool mirror_up,
			bool in_sync, bool touch_primary, bool touch_mirror)
{
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	catalog_writes_allowed = true;
	if (touch_primary)
		update_row(primary, primary_role, primary_up, in_sync);
	if (touch_mirror)
		update_row(mirror, mirror_role, mirror_up, in_sync);
	catalog_writes_allowed = false;
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}
