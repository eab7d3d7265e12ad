/*
 * Greenplum refuses statements that write a system catalog, a superuser's too,
 * unless the session has set allow_system_table_mods. PostgreSQL lets them pass.
 */
#include "gp_standin.h"

#include "catalog/pg_namespace.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"

bool		catalog_writes_allowed = false;

static post_parse_analyze_hook_type next_analyze_hook = NULL;

static void
refuse_catalog_write(Query *query)
{
	ListCell   *cell;

	foreach(cell, query->cteList)
	{
		Node	   *inner = lfirst_node(CommonTableExpr, cell)->ctequery;

		if (IsA(inner, Query))
			refuse_catalog_write((Query *) inner);
	}
	if (query->commandType != CMD_SELECT && query->resultRelation > 0)
	{
		Oid			target = rt_fetch(query->resultRelation, query->rtable)->relid;

		if (get_rel_namespace(target) == PG_CATALOG_NAMESPACE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("permission denied: \"%s\" is a system catalog", get_rel_name(target))));
	}
}

static void
analyzed(ParseState *pstate, Query *query, JumbleState *jstate)
{
	if (next_analyze_hook)
		next_analyze_hook(pstate, query, jstate);
	if (IsUnderPostmaster && !allowSystemTableMods && !catalog_writes_allowed)
		refuse_catalog_write(query);
}

void
catalog_guard_init(void)
{
	next_analyze_hook = post_parse_analyze_hook;
	post_parse_analyze_hook = analyzed;
}
