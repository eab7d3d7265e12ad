//! A server that ends or does not start, in its log or as `postgres --single`. The order decides where one message says two.

use super::{Cause, Message, said, variously};

/// Before the operating system's words: what is refused here is a setting's or the kernel's, not the directory's.
pub const FIRST: &[(Cause, &[Message])] = &[(Cause::Configuration, FILES_OF_SETTINGS), (Cause::Scarce, KERNEL)];

/// No disk is full then, as the HINT says that comes with it.
const KERNEL: &[Message] = &[
    said("could not create semaphores: No space left on device", "6, 7, 15", "could not create semaphores: No space left on device"),
    said(
        "could not create shared memory segment: No space left on device",
        "6, 7, 15",
        "could not create shared memory segment: No space left on device",
    ),
    said(
        "could not resize shared memory",
        "7, 15",
        "could not resize shared memory segment \"/PostgreSQL.1\" to 1048576 bytes: No space left on device",
    ),
];

const FILES_OF_SETTINGS: &[Message] = &[
    said("private key file \"\" has group or world access", "6, 7, 15", "private key file \"/tls/tls.key\" has group or world access"),
    said("private key file \"\" must be owned", "7, 15", "private key file \"/tls/tls.key\" must be owned by the database user or root"),
    said("could not load server certificate", "6, 7, 15", "could not load server certificate file \"/tls/tls.crt\": no start line"),
    said("could not load private key", "6, 7, 15", "could not load private key file \"/tls/tls.key\": bad decrypt"),
    said("could not access private key file", "6, 7, 15", "could not access private key file \"/tls/tls.key\": Permission denied"),
    said("could not load root certificate", "6, 7, 15", "could not load root certificate file \"/tls/ca.crt\": No such file or directory"),
    said("could not load SSL certificate revocation list", "6, 7, 15", "could not load SSL certificate revocation list file \"x\": bad"),
    said("maximum nesting depth exceeded", "6, 7, 15", "could not open configuration file \"a.conf\": maximum nesting depth exceeded"),
    said("check of private key failed", "7, 15", "check of private key failed: key values mismatch"),
];

/// Messages that say nothing by themselves: for want of what, or of which file, stands in their DETAIL alone. The first is said
/// of every log of states: `pg_clog`, `pg_xact`, `pg_subtrans`, `pg_multixact`, `pg_distributedlog`, `pg_commit_ts`.
pub const EXPLAINED: &[&str] = &["could not access status of transaction", "database \"\" does not exist"];

/// What stands there. What the operating system's words mean stands in `system`.
pub const DETAILS: &[(Cause, &[Message])] = &[(
    Cause::Damage,
    &[
        // No error, and less than was to be read: the file is cut short.
        said(": Success", "6", "Could not read from file \"pg_clog/0000\" at offset 0: Success."),
        said("read too few bytes", "7, 15", "Could not read from file \"pg_xact/0000\" at offset 0: read too few bytes."),
    ],
)];

pub const ROWS: &[(Cause, &[Message])] = &[
    (Cause::Version, VERSION),
    (Cause::Environment, ENVIRONMENT),
    (Cause::Scarce, SCARCE),
    (Cause::Configuration, CONFIGURATION),
    (Cause::Diverged, DIVERGED),
    (Cause::Damage, DAMAGE),
];

const VERSION: &[Message] = &[
    said("database files are incompatible with server", "6, 7, 15", "database files are incompatible with server"),
    said("An older database is trying to read", "6, 7", "An older database is trying to read a newer catalog"),
];

const ENVIRONMENT: &[Message] = &[
    said("data directory \"\" has group or world access", "6", "data directory \"/data/gpseg0\" has group or world access"),
    said("data directory \"\" has invalid permissions", "7, 15", "data directory \"/data/gpseg0\" has invalid permissions"),
    said("data directory \"\" has wrong ownership", "6, 7, 15", "data directory \"/data/gpseg0\" has wrong ownership"),
    said(
        "execution of the PostgreSQL server is not permitted",
        "6, 7, 15",
        "\"root\" execution of the PostgreSQL server is not permitted.",
    ),
    said("lock file \"\" is empty", "6, 7, 15", "lock file \"/tmp/.s.PGSQL.6000.lock\" is empty"),
    said("lock file \"\" already exists", "6, 7, 15", "lock file \"/tmp/.s.PGSQL.6000.lock\" already exists"),
    said("bogus data in lock file", "6, 7, 15", "bogus data in lock file \"/tmp/.s.PGSQL.6000.lock\": \"x\""),
    said("could not create lock file", "6, 7, 15", "could not create lock file \"/run/x/.s.PGSQL.6000.lock\": No such file or directory"),
    said("could not open lock file", "6, 7, 15", "could not open lock file \"/tmp/.s.PGSQL.6000.lock\": No such file or directory"),
    said("pre-existing shared memory block", "6, 7, 15", "pre-existing shared memory block (key 6000001, ID 5) is still in use"),
    said("could not bind", "6, 7, 15", "could not bind IPv4 address \"0.0.0.0\": Address already in use"),
    said("could not create any TCP/IP sockets", "6, 7, 15", "could not create any TCP/IP sockets"),
    said("could not create any Unix-domain sockets", "6, 7, 15", "could not create any Unix-domain sockets"),
    said("could not create listen socket", "6, 7, 15", "could not create listen socket for \"10.0.0.1\""),
    said("could not load library", "6, 7, 15", "could not load library \"/opt/gp/lib/x.so\": libxml2.so.2: cannot open shared object file"),
    said(
        "error while loading shared libraries",
        "6, 7, 15",
        "error while loading shared libraries: libxml2.so.2: cannot open shared object file",
    ),
    said("could not access file", "6, 7, 15", "could not access file \"$libdir/gp_x\": No such file or directory"),
    said(
        "could not open configuration file",
        "6, 7, 15",
        "could not open configuration file \"/etc/gp/extra.conf\": No such file or directory",
    ),
    said(
        "could not open configuration directory",
        "7, 15",
        "could not open configuration directory \"/etc/gp/conf.d\": No such file or directory",
    ),
    // Where nobody has put a link there, the directory is found unusable before a server is started.
    said("required WAL directory \"\" does not exist", "6, 7, 15", "required WAL directory \"pg_wal\" does not exist"),
    // Where a tablespace is to be made, or the data directory itself.
    variously(
        "directory \"\" does not exist",
        "6, 7, 15",
        "directory \"/data/space\" does not exist",
        &["data directory \"/data/gpseg0\" does not exist"],
    ),
    said("could not write to log file", "6, 7, 15", "could not write to log file: Bad file descriptor"),
    said("could not find a \"\" to execute", "6, 7, 15", "could not find a \"postgres\" to execute"),
    said("could not locate my own executable path", "6, 7, 15", "could not locate my own executable path"),
];

const SCARCE: &[Message] = &[
    said("out of memory", "6, 7, 15", "out of memory"),
    said("could not fork", "6, 7, 15", "could not fork startup process: Success"),
    said("could not map anonymous shared memory", "6, 7, 15", "could not map anonymous shared memory: Invalid argument"),
    said("could not create shared memory", "6, 7, 15", "could not create shared memory segment: Invalid argument"),
    said("could not create semaphores", "6, 7, 15", "could not create semaphores: Invalid argument"),
    said("insufficient file descriptors available", "6, 7, 15", "insufficient file descriptors available to start server process"),
    said("huge pages not supported", "7, 15", "huge pages not supported with the current shared_memory_type setting"),
];

const CONFIGURATION: &[Message] = &[
    said(
        "requested recovery stop point is before consistent recovery point",
        "6, 7, 15",
        "requested recovery stop point is before consistent recovery point",
    ),
    said("recovery_target_timeline is not a valid number", "6", "recovery_target_timeline is not a valid number: \"x\""),
    said("recovery_target_xid is not a valid number", "6", "recovery_target_xid is not a valid number: \"x\""),
    said("syntax error in file \"\" line", "6, 7, 15", "syntax error in file \"/data/gpseg0/postgresql.conf\" line 12, near token \"=\""),
    said(
        "unrecognized configuration parameter",
        "6, 7, 15",
        "unrecognized configuration parameter \"fsyncc\" in file \"/data/gpseg0/postgresql.conf\" line 3",
    ),
    said("unrecognized recovery parameter", "6", "unrecognized recovery parameter \"primary_con\""),
    said("invalid value for parameter", "6, 7, 15", "invalid value for parameter \"shared_buffers\": \"x\""),
    said("invalid value for recovery parameter", "6", "invalid value for recovery parameter \"recovery_target\": \"x\""),
    said(
        "is outside the valid range for parameter",
        "6, 7, 15",
        "1 is outside the valid range for parameter \"max_connections\" (10 .. 262143)",
    ),
    said("parameter \"\" requires a", "6, 7, 15", "parameter \"fsync\" requires a Boolean value"),
    said("parameter \"\" cannot be changed", "6, 7, 15", "parameter \"data_checksums\" cannot be changed"),
    said("contains errors", "6, 7, 15", "configuration file \"/data/gpseg0/postgresql.conf\" contains errors"),
    said("could not load pg_hba.conf", "6, 7, 15", "could not load pg_hba.conf"),
    said(
        "could not access the server configuration file",
        "6, 7, 15",
        "could not access the server configuration file \"/data/gpseg0/postgresql.conf\": No such file or directory",
    ),
    said(
        "is a lower setting than on the master server",
        "6, 7",
        "hot standby is not possible because max_connections = 10 is a lower setting than on the master server (its value was 40)",
    ),
    said("because of insufficient parameter settings", "15", "recovery aborted because of insufficient parameter settings"),
    said("maximum number of prepared transactions reached", "6, 7, 15", "maximum number of prepared transactions reached"),
    said(
        "recovery ended before configured recovery target was reached",
        "15",
        "recovery ended before configured recovery target was reached",
    ),
    said("multiple recovery targets specified", "7, 15", "multiple recovery targets specified"),
    said("recovery target timeline", "6, 7, 15", "recovery target timeline 9 does not exist"),
    said("using recovery command file", "7, 15", "using recovery command file \"recovery.conf\" is not supported"),
    said(
        "specified neither primary_conninfo nor restore_command",
        "6",
        "recovery command file \"recovery.conf\" specified neither primary_conninfo nor restore_command",
    ),
    said(
        "must specify restore_command",
        "6, 7, 15",
        "recovery command file \"recovery.conf\" must specify restore_command when standby mode is not enabled",
    ),
    said("standby mode is not supported by single-user servers", "6, 7, 15", "standby mode is not supported by single-user servers"),
    said("WAL was generated with wal_level=minimal", "6, 7, 15", "WAL was generated with wal_level=minimal, cannot continue recovering"),
    said("requires wal_level", "6, 7, 15", "WAL streaming (max_wal_senders > 0) requires wal_level \"replica\" or \"logical\""),
    said("WAL archival cannot be enabled", "7, 15", "WAL archival cannot be enabled when wal_level is \"minimal\""),
    said("ssl renegotiation", "6", "ssl renegotiation is not supported"),
    variously(
        "must be less than max_connections",
        "6, 7, 15",
        "superuser_reserved_connections must be less than max_connections",
        &["max_wal_senders must be less than max_connections", "superuser_reserved_connections (3) must be less than max_connections (2)"],
    ),
    said("could not set the cipher list", "6, 7, 15", "could not set the cipher list (no valid ciphers available)"),
    said("is not a valid locale", "6, 7, 15", "\"de_DE.UTF-8\" is not a valid locale"),
    said("database locale is incompatible with operating system", "6, 7, 15", "database locale is incompatible with operating system"),
    said("time zone abbreviation file", "6, 7, 15", "time zone abbreviation file \"x\" not found"),
];

const DIVERGED: &[Message] = &[
    said("is not a child of this server's history", "6, 7, 15", "requested timeline 2 is not a child of this server's history"),
    said(
        "does not contain minimum recovery point",
        "6, 7, 15",
        "requested timeline 2 does not contain minimum recovery point 0/5 on timeline 1",
    ),
];

const DAMAGE: &[Message] = &[
    said("incorrect checksum in control file", "6, 7, 15", "incorrect checksum in control file"),
    said("control file contains invalid", "6, 7, 15", "control file contains invalid data"),
    said("could not locate a valid checkpoint record", "6, 7, 15", "could not locate a valid checkpoint record"),
    said("could not locate required checkpoint record", "6, 7, 15", "could not locate required checkpoint record"),
    variously(
        "could not find redo location",
        "6, 7, 15",
        "could not find redo location referenced by checkpoint record",
        &["could not find redo location 0/05000028 referenced by checkpoint record at 0/05000060"],
    ),
    said("invalid primary checkpoint record", "6, 7, 15", "invalid primary checkpoint record"),
    said("invalid checkpoint record", "6, 7, 15", "invalid checkpoint record"),
    said("invalid redo in checkpoint record", "6, 7, 15", "invalid redo in checkpoint record"),
    said("is not a valid data directory", "6, 7, 15", "\"/data/gpseg0\" is not a valid data directory"),
    said("dbid is not specified or is invalid", "7", "dbid is not specified or is invalid"),
    said(
        "dbid (from -b option) is not specified or is invalid",
        "6",
        "dbid (from -b option) is not specified or is invalid.  This value must be >= 0",
    ),
    said("contentid (from -C option) is not specified or is invalid", "6", "contentid (from -C option) is not specified or is invalid."),
    said("dbid is out of valid range", "6, 7", "dbid is out of valid range"),
    said("WAL ends before end of online backup", "6, 7, 15", "WAL ends before end of online backup"),
    said("WAL ends before consistent recovery point", "6, 7, 15", "WAL ends before consistent recovery point"),
    said("WAL contains references to invalid pages", "6, 7, 15", "WAL contains references to invalid pages"),
    said(
        "backup_label contains data inconsistent with control file",
        "6, 7, 15",
        "backup_label contains data inconsistent with control file",
    ),
    said("invalid data in file", "6, 7, 15", "invalid data in file \"backup_label\""),
    said("invalid data in history file", "6, 7, 15", "invalid data in history file \"pg_xlog/00000002.history\""),
    said("syntax error in history file", "6, 7, 15", "syntax error in history file: x"),
    variously(
        "invalid page in block",
        "6, 7, 15",
        "invalid page in block 3 of relation base/1/1259",
        &["invalid page in block 3 of relation pg_tblspc/16385/GPDB_6_301908232/1/16386"],
    ),
    said("invalid page header in block", "6", "invalid page header in block 3 of relation base/1/1259"),
    variously(
        "could not read block",
        "6, 7, 15",
        "could not read block 3 in file \"base/1/1259\": read only 0 of 32768 bytes",
        &["could not read block 3 in file \"base/1/1259\": read only 100 of 8192 bytes"],
    ),
    variously(
        "could not read file \"\": read",
        "7, 15",
        "could not read file \"pg_replslot/x/state\": read 5 of 200",
        &[
            "could not read file \"global/pg_control\": read 100 of 296",
            "could not read file \"global/pg_filenode.map\": read 12 of 512",
            "could not read file \"pg_logical/replorigin_checkpoint\": read 2 of 4",
            "could not read file \"pg_twophase/000002DB\": read 10 of 100",
        ],
    ),
    // Of a short read the error that it adds is that of an earlier call.
    said("could not read file \"\", read", "6", "could not read file \"pg_replslot/x/state\", read 5 of 200: Success"),
    said("could not read from control file: read", "6", "could not read from control file: read 100 bytes, expected 248"),
    said(
        "previous segment is only",
        "7, 15",
        "could not open file \"base/1/1259.1\" (target block 131072): previous segment is only 5 blocks",
    ),
    said(
        "could not read relation mapping file \"\": Success",
        "6",
        "could not read relation mapping file \"global/pg_filenode.map\": Success",
    ),
    variously(
        "incorrect size of file",
        "7, 15",
        "incorrect size of file \"pg_twophase/000002DB\": 100 bytes",
        &["incorrect size of file \"pg_twophase/000002DB\": 1 byte"],
    ),
    said("invalid size stored in file", "7, 15", "invalid size stored in file \"pg_twophase/000002DB\""),
    said("incorrect alignment of CRC offset for file", "7, 15", "incorrect alignment of CRC offset for file \"pg_twophase/000002DB\""),
    said(
        "calculated CRC checksum does not match value stored in file",
        "7, 15",
        "calculated CRC checksum does not match value stored in file \"pg_twophase/000002DB\"",
    ),
    variously(
        "relation mapping file \"\" contains",
        "6, 7, 15",
        "relation mapping file \"global/pg_filenode.map\" contains incorrect checksum",
        &["relation mapping file \"base/1/pg_filenode.map\" contains invalid data"],
    ),
    variously(
        "replication slot file",
        "6, 7, 15",
        "replication slot file \"pg_replslot/x/state\" has wrong magic 0 instead of 17112113",
        &[
            "replication slot file \"pg_replslot/x/state\" has wrong magic number: 0 instead of 17112113",
            "replication slot file \"pg_replslot/x/state\" has corrupted length 0",
            "replication slot file \"pg_replslot/x/state\" has unsupported version 9",
            "replication slot file pg_replslot/x/state: checksum mismatch, is 1, should be 2",
        ],
    ),
    said(
        "checksum mismatch for replication slot file",
        "7, 15",
        "checksum mismatch for replication slot file \"pg_replslot/x/state\": is 1, should be 2",
    ),
    said("replication checkpoint has wrong magic", "7, 15", "replication checkpoint has wrong magic 0 instead of 307747550"),
    variously(
        "corrupted two-phase state",
        "6, 7, 15",
        "corrupted two-phase state file for transaction 731",
        &["corrupted two-phase state in memory for transaction 731"],
    ),
    said("could not recover two-phase state file", "6, 7, 15", "could not recover two-phase state file for transaction 731"),
    said("two-phase state data is not present", "7, 15", "expected two-phase state data is not present in WAL at 0/5"),
    variously(
        "invalid magic number",
        "6, 7, 15",
        "invalid magic number 0000 in log segment 000000010000000000000003, offset 0",
        &["invalid magic number stored in file \"pg_twophase/000002DB\""],
    ),
    said("unexpected pageaddr", "6, 7, 15", "unexpected pageaddr 0/1 in log segment 000000010000000000000003, offset 0"),
    variously(
        "unexpected timeline ID",
        "6, 7, 15",
        "unexpected timeline ID 1 (should be 2) in checkpoint record",
        &[
            "unexpected timeline ID 1 (should be 2) in shutdown checkpoint record",
            "unexpected timeline ID 1 (after 2) in checkpoint record",
            "unexpected timeline ID 3 in checkpoint record, before reaching minimum recovery point 0/5000060 on timeline 2",
        ],
    ),
    said("_redo: invalid lp", "6", "heap_update_redo: invalid lp"),
    said("_redo: invalid max offset number", "6", "heap_insert_redo: invalid max offset number"),
    said("_redo: failed to add", "6", "heap_insert_redo: failed to add tuple"),
    said("invalid lp", "7, 15", "invalid lp"),
    said("invalid max offset number", "7, 15", "invalid max offset number"),
    said("failed to add tuple", "7, 15", "failed to add tuple"),
    said("failed to add item to index", "6, 7, 15", "failed to add item to index page in 1663/1/1259"),
    said("tablespace \"\" is not empty", "6, 7, 15", "tablespace \"16385\" is not empty"),
];
