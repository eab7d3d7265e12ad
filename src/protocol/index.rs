//! A catalog, read once for what is asked of it about every instance: what takes a look at all rows for each content grows
//! with the square of a cluster's size.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hash, Hasher},
};

use super::{Catalog, Content, Dbid, Pair, Row};

/// Finds rows and pairs of one catalog at once.
#[derive(Debug)]
pub struct CatalogIndex<'a> {
    rows: &'a [Row],
    /// The first row of a dbid, which should be the only one.
    by_dbid: Quickly<Dbid, &'a Row>,
    /// Ascending by content; those of segments alone.
    pairs: Vec<(Content, Result<Pair<'a>, String>)>,
}

impl<'a> CatalogIndex<'a> {
    pub fn of(catalog: &'a Catalog) -> Self {
        let shared = Shared::of(&catalog.rows);
        let mut by_dbid = Quickly::default();
        by_dbid.reserve(catalog.rows.len());
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

    /// The pair of every content of segments, ascending, or why its rows cannot be true.
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
        let mut addresses = Counted::default();
        for row in rows {
            shared.dbids.count(row.dbid, rows.len());
            addresses.count(row.address.as_str(), rows.len());
        }
        // Rows of an address of their own share no place with anybody.
        for row in rows.iter().filter(|row| addresses.twice(&row.address.as_str())) {
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
    seen: Quickly<K, bool>,
    /// Whether any came more than once: else nobody need be looked up.
    any: bool,
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self { seen: Quickly::default(), any: false }
    }
}

impl<K: Hash + Eq> Counted<K> {
    fn count(&mut self, key: K, expected: usize) {
        if self.seen.is_empty() {
            self.seen.reserve(expected);
        }
        if let Some(twice) = self.seen.get_mut(&key) {
            (*twice, self.any) = (true, true);
        } else {
            self.seen.insert(key, false);
        }
    }

    fn twice(&self, key: &K) -> bool {
        self.any && self.seen.get(key) == Some(&true)
    }
}

/// A map for keys of a catalog. Whoever could choose them so that they collide would have to write a catalog, and gains a slow plan.
pub type Quickly<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// A hash by eight bytes at a time: most of a plan's time went into hashing names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quick(u64);

impl Quick {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_i16(&mut self, number: i16) {
        self.add(number.cast_unsigned().into());
    }

    fn write_u16(&mut self, number: u16) {
        self.add(number.into());
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26) // its upper bits are the well mixed ones, and both ends are used
    }
}
