//! What the tools that copy say, and what they pass on of the acting primary. Of one tool the first row that fits wins.

use super::{Message, said, variously};
use model::FailureClass;

/// Lines of libpq while it connects: what the system says in them is of the network.
pub fn is_connecting(line: &str) -> bool {
    ["could not connect to server", "connection to server", "could not translate host name", "could not receive data from server", "SSL "]
        .iter()
        .any(|words| line.contains(words))
}

/// Errors of the acting primary's server, which stand in a tool's lines behind their severity.
pub const RELAYED: &[(FailureClass, &[Message])] = &[
    (
        FailureClass::LoginRefused,
        &[
            said("password authentication failed", "6, 7, 15", "FATAL:  password authentication failed for user \"gpheal\""),
            said("authentication failed for user", "6, 7, 15", "FATAL:  LDAP authentication failed for user \"gpheal\""),
            said(
                "no pg_hba.conf entry",
                "6, 7, 15",
                "FATAL:  no pg_hba.conf entry for replication connection from host \"10.0.0.9\", user \"gpheal\", SSL off",
            ),
            said(
                "pg_hba.conf rejects",
                "6, 7, 15",
                "FATAL:  pg_hba.conf rejects replication connection for host \"10.0.0.9\", user \"gpheal\", no encryption",
            ),
            said("is not permitted to log in", "6, 7, 15", "FATAL:  role \"gpheal\" is not permitted to log in"),
            said("role \"\" does not exist", "6, 7, 15", "FATAL:  role \"gpheal\" does not exist"),
            said("must be superuser", "6, 7, 15", "FATAL:  must be superuser or replication role to start walsender"),
            said("permission denied", "6, 7, 15", "ERROR:  permission denied for function pg_read_binary_file"),
            said("connection requires a valid client certificate", "6, 7, 15", "FATAL:  connection requires a valid client certificate"),
        ],
    ),
    (
        FailureClass::SlotActive,
        &[
            said("is already active", "6", "ERROR:  replication slot \"internal_wal_replication_slot\" is already active"),
            said("is active for PID", "7, 15", "ERROR:  replication slot \"internal_wal_replication_slot\" is active for PID 42"),
            said("all replication slots are in use", "6, 7, 15", "ERROR:  all replication slots are in use"),
            said(
                "number of requested standby connections exceeds",
                "6, 7, 15",
                "FATAL:  number of requested standby connections exceeds max_wal_senders (currently 10)",
            ),
            said("too many clients already", "6, 7, 15", "FATAL:  sorry, too many clients already"),
            said(
                "remaining connection slots are reserved",
                "6, 7, 15",
                "FATAL:  remaining connection slots are reserved for non-replication superuser connections",
            ),
            said("too many connections for", "6, 7, 15", "FATAL:  too many connections for role \"gpheal\""),
        ],
    ),
    (
        FailureClass::WalRemoved,
        &[said("has already been removed", "6, 7, 15", "ERROR:  requested WAL segment 000000010000000000000003 has already been removed")],
    ),
    (
        FailureClass::SourceChanged,
        &[
            said("the standby was promoted during online backup", "6, 7, 15", "ERROR:  the standby was promoted during online backup"),
            said(
                "No such file or directory",
                "6, 7, 15",
                "ERROR:  could not open file \"base/1/16384\" for reading: No such file or directory",
            ),
            said(
                "replication slot \"\" does not exist",
                "6, 7, 15",
                "ERROR:  replication slot \"internal_wal_replication_slot\" does not exist",
            ),
        ],
    ),
    (
        FailureClass::SourceDamaged,
        &[
            said("checksum verification failure during base backup", "7, 15", "ERROR:  checksum verification failure during base backup"),
            said("invalid page in block", "6, 7, 15", "ERROR:  invalid page in block 3 of relation base/1/1259"),
            said("invalid segment number", "7, 15", "ERROR:  invalid segment number 0 in file \"123.0\""),
        ],
    ),
    (
        FailureClass::Configuration,
        &[
            said("database \"\" does not exist", "6, 7, 15", "FATAL:  database \"template1\" does not exist"),
            said(
                "is not currently accepting connections",
                "6, 7, 15",
                "FATAL:  database \"template1\" is not currently accepting connections",
            ),
            said("due to statement timeout", "6, 7, 15", "ERROR:  canceling statement due to statement timeout"),
            said(
                "generated with full_page_writes=off",
                "6, 7, 15",
                "ERROR:  WAL generated with full_page_writes=off was replayed since last restartpoint",
            ),
            said(
                "too long for tar format",
                "6, 7, 15",
                "ERROR:  symbolic link target too long for tar format: file name \"x\", target \"y\"",
            ),
        ],
    ),
    (
        FailureClass::SourceNotReady,
        &[
            said("the database system is", "6, 7, 15", "FATAL:  the database system is starting up"),
            said("recovery is in progress", "6, 7, 15", "ERROR:  recovery is in progress"),
            said("a backup is already in progress", "6", "ERROR:  a backup is already in progress"),
        ],
    ),
    (
        FailureClass::ConnectionLost,
        &[said("terminating connection", "6, 7, 15", "FATAL:  terminating connection due to administrator command")],
    ),
];

pub const REWIND: &[(FailureClass, &[Message])] = &[
    (FailureClass::Environment, LIBRARIES),
    (
        FailureClass::SystemIdentifierDiffers,
        &[
            said("different systems", "6, 7, 15", "source and target clusters are from different systems"),
            said(
                "from different database system",
                "6, 7, 15",
                "WAL file is from different database system: WAL file database system identifier is 1, pg_control database system identifier is 2",
            ),
        ],
    ),
    (
        FailureClass::VersionDiffers,
        &[
            said("clusters are not compatible with this version", "6, 7, 15", "clusters are not compatible with this version of pg_rewind"),
            said(
                "was not the same version",
                "7, 15",
                "program \"postgres\" was found by \"/opt/gp/bin/pg_rewind\" but was not the same version as pg_rewind",
            ),
        ],
    ),
    (FailureClass::SourceNotReady, &[said("must not be in recovery mode", "6, 7, 15", "source server must not be in recovery mode")]),
    (
        FailureClass::Configuration,
        &[said("full_page_writes must be enabled", "6, 7, 15", "full_page_writes must be enabled in the source server")],
    ),
    (
        FailureClass::ToolKilled,
        &[said("unexpected control file CRC", "6, 7, 15", "unexpected control file CRC")], // it was read while it was written
    ),
    (
        FailureClass::SourceChanged,
        &[
            said("unexpected result set", "6, 7, 15", "unexpected result set size while fetching remote files"),
            said("unexpected null values in result", "6, 7, 15", "unexpected null values in result while fetching remote files"),
            said("received more than requested for file", "7, 15", "received more than requested for file \"base/1/2\""),
            said("received data", "7, 15", "received data at offset 5 of file \"base/1/2\", when requested for offset 0"),
            said("changed concurrently", "15", "size of source file \"base/1/2\" changed concurrently: 5 bytes expected, 3 copied"),
        ],
    ),
    (
        FailureClass::CannotRewind,
        &[
            said(
                "could not find common ancestor",
                "6, 7, 15",
                "could not find common ancestor of the source and target cluster's timelines",
            ),
            said(
                " record type is not recognized",
                "7, 15",
                "WAL record modifies a relation, but record type is not recognized: lsn: 0/5, rmid: 1, rmgr: x, info: 00",
            ),
            said(" record type ", "6", "unrecognized heap record type 7"),
            said("could not find previous WAL record", "6, 7, 15", "could not find previous WAL record at 0/5000060"),
            said("could not read WAL record", "6, 7, 15", "could not read WAL record at 0/5000060: invalid record length"),
            said("could not open WAL", "6, 7, 15", "could not open WAL segment"),
            // The target's own log, which was recycled. Of any other file it says nothing.
            said("pg_wal/0", "7, 15", "could not open file \"pg_wal/000000010000000000000003\": No such file or directory"),
            said("pg_xlog/0", "6", "could not open file \"/data/gpseg0/pg_xlog/000000010000000000000003\": No such file or directory"),
            said(
                "needs to use either data checksums",
                "6, 7, 15",
                "target server needs to use either data checksums or \"wal_log_hints = on\"",
            ),
            said("target server must be shut down cleanly", "6, 7, 15", "target server must be shut down cleanly"),
            said("single-user mode", "6, 7, 15", "postgres single-user mode in target cluster failed"),
            said("unexpected control file size", "6, 7, 15", "unexpected control file size 0, expected 8192"),
            said("invalid control file", "7, 15", "invalid control file"),
            // The source's own is read before pg_rewind is called.
            variously("history file", "6, 7, 15", "syntax error in history file: x", &["invalid data in history file: 1"]),
            said("of different type in source and target", "7, 15", "file \"log\" is of different type in source and target"),
            said("is not a regular file", "6, 7, 15", "data file \"base/1/2\" in source is not a regular file"),
            said("is not a directory", "6", "\"log\" is not a directory"),
            said("is not a symbolic link", "6", "\"pg_tblspc/16385\" is not a symbolic link"),
            said("page modification for", "6, 7, 15", "unexpected page modification for non-regular file \"base/1/2\""),
            said("Directory not empty", "6, 7, 15", "could not remove directory \"base/1/extra\": Directory not empty"),
            said("could not remove", "6, 7, 15", "could not remove file \"base/1/2\": Is a directory"),
            said("could not truncate file", "6, 7, 15", "could not truncate file \"base/1/2\" to 8192: Invalid argument"),
            said("for truncation", "6, 7, 15", "could not open file \"base/1/2\" for truncation: No such file or directory"),
            said("could not seek in target file", "6, 7, 15", "could not seek in target file \"base/1/2\": Invalid argument"),
            said("could not close target file", "6, 7, 15", "could not close target file \"base/1/2\": Invalid argument"),
            said("could not write file", "6, 7, 15", "could not write file \"base/1/2\": Invalid argument"),
            said("file path is unsafe for truncation", "15", "target file path is unsafe for truncation: \"base/1/2\""),
            said("could not open target file", "6, 7, 15", "could not open target file \"postgresql.auto.conf\": Is a directory"),
            said("could not create symbolic link", "6, 7, 15", "could not create symbolic link at \"pg_tblspc/16385\": File exists"),
            said("could not create directory", "6, 7, 15", "could not create directory \"base/1/extra\": File exists"),
            said("target is too long", "6, 7, 15", "symbolic link \"pg_tblspc/16385\" target is too long"),
        ],
    ),
];

pub const BASE_BACKUP: &[(FailureClass, &[Message])] = &[
    (FailureClass::Environment, LIBRARIES),
    // A tablespace that was made after the source was asked for them lies in place, where nothing is overwritten.
    (
        FailureClass::WorldMoved,
        &[said("exists but is not empty", "6, 7, 15", "pg_basebackup: directory \"/data/s/4/GPDB_6_301908232\" exists but is not empty")],
    ),
    (
        FailureClass::SystemIdentifierDiffers,
        &[said("system identifier differs", "15", "database system identifier differs between base backup and streaming connection")],
    ),
    (
        FailureClass::VersionDiffers,
        &[
            said("incompatible server version", "6, 7, 15", "pg_basebackup: incompatible server version 9.4.26"),
            said("unrecognized archive format", "15", "unrecognized archive format"),
        ],
    ),
    (FailureClass::SourceDamaged, &[said("checksum error occurred", "7, 15", "pg_basebackup: error: checksum error occurred")]),
    (
        FailureClass::Configuration,
        &[
            said("invalid tar block header size", "6", "invalid tar block header size: 5"),
            said("too large", "7, 15", "archive member \"base/1/2\" too large for tar format"),
        ],
    ),
    (
        FailureClass::ConnectionLost,
        &[
            said(
                "could not receive data from WAL stream",
                "6, 7, 15",
                "could not receive data from WAL stream: server closed the connection unexpectedly",
            ),
            said("unexpected termination of replication stream", "6, 7, 15", "unexpected termination of replication stream: "),
            said("replication stream was terminated before stop point", "6, 7, 15", "replication stream was terminated before stop point"),
            said("child process exited", "6, 7, 15", "child process exited with exit code 1"),
            said("child thread exited", "7, 15", "child thread exited with error 1"),
            said("child process was terminated", "6, 7, 15", "child process was terminated by signal 15: Terminated"),
            said("background process terminated unexpectedly", "15", "background process terminated unexpectedly"),
            said("COPY stream ended before last file was finished", "6, 7, 15", "COPY stream ended before last file was finished"),
            said("log end position from server", "6, 7, 15", "could not get transaction log end position from server: "),
            said("final receive failed", "6, 7, 15", "final receive failed: server closed the connection unexpectedly"),
            said("could not read COPY data", "6, 7, 15", "could not read COPY data: server closed the connection unexpectedly"),
            said("could not get COPY data stream", "6, 7, 15", "could not get COPY data stream: "),
            said("could not initiate base backup", "6, 7, 15", "could not initiate base backup: server closed the connection unexpectedly"),
        ],
    ),
];

const LIBRARIES: &[Message] = &[said(
    "error while loading shared libraries",
    "6, 7, 15",
    "error while loading shared libraries: libxml2.so.2: cannot open shared object file",
)];

pub const LIBPQ: &[(FailureClass, &[Message])] = &[
    (
        FailureClass::TlsRefused,
        &[
            said(
                "certificate verify failed",
                "6, 7, 15",
                "connection to server at \"a\", port 1 failed: SSL error: certificate verify failed",
            ),
            said(
                "does not support SSL",
                "6, 7, 15",
                "connection to server at \"a\", port 1 failed: server does not support SSL, but SSL was required",
            ),
            said("does not match host name", "6, 7, 15", "server certificate for \"b\" does not match host name \"a\""),
            said("root certificate file", "6, 7, 15", "root certificate file \"/x/root.crt\" does not exist"),
            said("tlsv1 alert", "6, 7, 15", "SSL error: tlsv1 alert unknown ca"),
            said("tlsv13 alert", "7, 15", "SSL error: tlsv13 alert certificate required"),
            said("sslv3 alert", "6, 7, 15", "SSL error: sslv3 alert bad certificate"),
            said("ssl/tls alert", "15", "SSL error: ssl/tls alert bad certificate"),
            said("wrong version number", "6, 7, 15", "SSL error: wrong version number"),
            said("unsupported protocol", "6, 7, 15", "SSL error: unsupported protocol"),
            said("certificate file \"", "6, 7, 15", "could not read certificate file \"/x/postgresql.crt\": no start line"),
        ],
    ),
    (
        FailureClass::LoginRefused,
        &[
            said("no password supplied", "6, 7, 15", "fe_sendauth: no password supplied"),
            said("authentication method", "6, 7, 15", "authentication method 10 not supported"),
            said("SCRAM authentication requires", "7, 15", "SCRAM authentication requires libpq version 10 or above"),
        ],
    ),
    (
        FailureClass::ConnectionLost,
        &[
            said("could not connect to server", "6, 7", "could not connect to server: Connection refused"),
            said("connection to server", "15", "connection to server at \"a\" (10.0.0.1), port 1 failed: Connection timed out"),
            said("server closed the connection", "6, 7, 15", "server closed the connection unexpectedly"),
            said("could not receive data", "6, 7, 15", "could not receive data from server: Connection reset by peer"),
            said("could not send", "6, 7, 15", "could not send data to server: Broken pipe"),
            said(
                "could not translate host name",
                "6, 7, 15",
                "could not translate host name \"a\" to address: Temporary failure in name resolution",
            ),
            said("SSL SYSCALL", "6, 7, 15", "SSL SYSCALL error: EOF detected"),
            said("SSL connection has been closed", "6, 7, 15", "SSL connection has been closed unexpectedly"),
            said("unexpected eof while reading", "6, 7, 15", "SSL error: unexpected eof while reading"),
            said("timeout expired", "6, 7, 15", "timeout expired"),
            said("could not fetch", "6, 7, 15", "could not fetch file list: no connection to the server"),
        ],
    ),
];
