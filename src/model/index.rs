//! A catalog, read once for what is asked of it about every instance: what takes a look at all rows for each content grows
//! with the square of a cluster's size.

use std::collections::HashMap;

use super::{Catalog, Content, Dbid, Pair, Row};

/// Finds rows and pairs of one catalog at once.
#[derive(Debug)]
pub struct CatalogIndex<'a> {
    rows: &'a [Row],
    /// The first row of a dbid, which should be the only one.
    by_dbid: HashMap<Dbid, &'a Row>,
    /// Ascending by content; those of segments alone.
    pairs: Vec<(Content, Result<Pair<'a>, String>)>,
}

impl<'a> CatalogIndex<'a> {
    pub fn of(catalog: &'a Catalog) -> Self {
        let shared = Shared::of(&catalog.rows);
        let mut by_dbid = HashMap::with_capacity(catalog.rows.len());
        for row in &catalog.rows {
            by_dbid.entry(row.dbid).or_insert(row);
        }
        let mut rows: Vec<&Row> = catalog.rows.iter().filter(|row| row.content.0 >= 0).collect();
        rows.sort_by_key(|row| row.content); // stable, and done already for a catalog that was read in order
        let groups = rows.chunk_by(|a, b| a.content == b.content);
        let judged = |group: &[&'a Row]| {
            let content = group.first()?.content;
            Some((content, catalog.judged(content, group, |row| shared.holds(row))))
        };
        Self { rows: &catalog.rows, by_dbid, pairs: groups.filter_map(judged).collect() }
    }

    /// All rows, in the catalog's order.
    pub fn rows(&self) -> &'a [Row] {
        self.rows
    }

    /// The row of an instance.
    pub fn row(&self, dbid: Dbid) -> Option<&'a Row> {
        self.by_dbid.get(&dbid).copied()
    }

    /// The pair of every content of segments, ascending, or why its rows can not be true.
    pub fn pairs(&self) -> &[(Content, Result<Pair<'a>, String>)] {
        &self.pairs
    }

    /// The pair of one content. `None`: the catalog does not have it.
    pub fn pair(&self, content: Content) -> Option<&Result<Pair<'a>, String>> {
        let at = self.pairs.binary_search_by_key(&content, |(content, _)| *content).ok()?;
        self.pairs.get(at).map(|(_, pair)| pair)
    }
}

/// What more than one row has, though each should have its own.
#[derive(Default)]
struct Shared<'a> {
    dbids: Counted<Dbid>,
    ports: Counted<(&'a str, u16)>,
    directories: Counted<(&'a str, &'a str)>,
}

impl<'a> Shared<'a> {
    fn of(rows: &'a [Row]) -> Self {
        let mut shared = Self::default();
        for row in rows {
            shared.dbids.count(row.dbid, rows.len());
            shared.ports.count((&row.address, row.port), rows.len());
            shared.directories.count((&row.address, &row.datadir), rows.len());
        }
        shared
    }

    fn holds(&self, row: &'a Row) -> bool {
        self.dbids.twice(&row.dbid)
            || self.ports.twice(&(row.address.as_str(), row.port))
            || self.directories.twice(&(row.address.as_str(), row.datadir.as_str()))
    }
}

/// Keys by whether they came more than once.
struct Counted<K> {
    seen: HashMap<K, bool>,
    /// Whether any came more than once: else nobody need be looked up.
    any: bool,
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self { seen: HashMap::new(), any: false }
    }
}

impl<K: std::hash::Hash + Eq> Counted<K> {
    fn count(&mut self, key: K, expected: usize) {
        if self.seen.is_empty() {
            self.seen.reserve(expected);
        }
        let mut again = false;
        self.seen.entry(key).and_modify(|twice| (*twice, again) = (true, true)).or_insert(false);
        self.any |= again;
    }

    fn twice(&self, key: &K) -> bool {
        self.any && self.seen.get(key) == Some(&true)
    }
}
