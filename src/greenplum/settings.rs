//! What a role, a database or a server may have set for its sessions, and what ours and those of our tools have instead.

/// Told at login. Every version knows these names, and one more would have the server refuse us. The path is emptied as
/// Greenplum's own tools do: no object of a user's may stand in for one of the catalog. Without the two bounds a role's own of
/// a millisecond would end the statement that sets the rest.
pub const AT_LOGIN: &str = "-c search_path= -c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off \
                            -c default_transaction_deferrable=off -c standard_conforming_strings=on -c transform_null_equals=off";

/// What a session is set to once it is logged in, as far as its server knows the name. Nothing ends it or a statement of it
/// but we; what is compared and read means the same everywhere; and no transaction waits for a snapshot.
const OURS: &[(&str, &str)] = &[
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("transaction_timeout", "0"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("search_path", ""),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("lc_messages", "C"), // what a tool passes on is read by its words
];

/// Of a session that has come upon text which its server cannot give as UTF-8: from here on it gets the bytes as they are.
pub const AS_BYTES: &str = "SELECT pg_catalog.set_config('client_encoding', 'SQL_ASCII', false)";

/// Sets all of them that are known and that the role may set, and names those. Only for a session that sees one instance alone: a coordinator sends
/// what a session sets to every segment, and hangs where one is away.
pub fn statement() -> String {
    let values: Vec<_> = OURS.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    format!(
        "SELECT known.name, pg_catalog.set_config(known.name, ours.value, false) FROM (VALUES {}) AS ours (name, value) \
         JOIN pg_catalog.pg_settings AS known ON known.name = ours.name \
         WHERE known.context = 'user' OR known.context = 'superuser' AND pg_catalog.current_setting('is_superuser') = 'on'",
        values.join(", ")
    )
}

/// The same as startup options, for a tool that opens sessions of its own at a server that knows these names. A value with
/// a space could not be said to every version. What the tool reads is bytes: no name of a file is to be converted.
pub fn options(known: &[String]) -> String {
    let told = |(name, value): &(&str, &str)| {
        let value = if *name == "client_encoding" { "SQL_ASCII" } else { value };
        (known.iter().any(|one| one == name) && !value.contains(' ')).then(|| format!("-c {name}={value}"))
    };
    OURS.iter().filter_map(told).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_told_only_what_its_server_knows() {
        let known = |names: &[&str]| options(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(known(&["statement_timeout", "search_path", "port"]), "-c statement_timeout=0 -c search_path=");
        assert_eq!(known(&["idle_session_timeout", "client_encoding"]), "-c idle_session_timeout=0 -c client_encoding=SQL_ASCII");
        assert_eq!(known(&["default_transaction_isolation"]), "", "9.4 cannot be told a value with a space");
        assert_eq!(known(&[]), "");
    }

    /// 9.4 would refuse a session that is told a name which came later.
    #[test]
    fn nothing_that_only_later_versions_know_is_told_at_login() {
        for (name, _) in OURS.iter().filter(|(name, _)| name.contains("idle") || name.contains("transaction_timeout")) {
            assert!(!AT_LOGIN.contains(name), "{name}");
        }
    }
}
