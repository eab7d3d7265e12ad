# Makes a volume into a database, once. Sourced by bootstrap-coordinator,
# bootstrap-primary and bootstrap-mirror; each is one Job, one run, one claim.
#
#   DATA_DIRECTORY   below the mount, so that marks can lie beside it
#   PORT DBID CONTENT
#   CREDENTIALS      folder with the files username and password
#   ROLES            folders of the same kind, of roles that may log in (optional)
#   MONITORS         those of ROLES that may look at everything (optional; not on Greenplum 6)
#   TLS              folder with ca.crt, tls.crt and tls.key (optional): nobody gets in without TLS then
#   SETTINGS         more lines for postgresql.conf (optional)
set -euo pipefail
: "${DATA_DIRECTORY:?}" "${PORT:?}" "${DBID:?}" "${CONTENT:?}" "${CREDENTIALS:=/etc/gpheal/credentials}"

here=$(cd -- "${BASH_SOURCE[1]%/*}" && pwd)
PATH=$here:$PATH
new=$DATA_DIRECTORY.new
user=$(<"$CREDENTIALS/username")
host=host
if [ -n "${TLS:=}" ]; then
    host=hostssl
    export PGSSLMODE=verify-full PGSSLROOTCERT=$TLS/ca.crt
fi

say() { echo "bootstrap: $*"; }

# Where Greenplum 6 differs from 7 and Cloudberry.
case $(postgres --gp-version) in
    *"Greenplum Database) 6."*)
        six=yes auth=md5 utility=gp_session_role=utility log=pg_log
        mirror_settings=recovery.conf copy_options=(--xlog-method stream) slot_creation=() ;;
    *)
        six='' auth=scram-sha-256 utility=gp_role=utility log=log
        mirror_settings=postgresql.auto.conf copy_options=(--wal-method stream) slot_creation=(--create-slot) ;;
esac

# Never a second time: what is there may be the last good copy.
refuse_existing() {
    if [ -e "$DATA_DIRECTORY/PG_VERSION" ]; then
        say "$DATA_DIRECTORY is already a database; nothing to do"
        exit 0
    fi
    if [ -d "$DATA_DIRECTORY" ] && [ -n "$(ls -A "$DATA_DIRECTORY")" ]; then
        say "$DATA_DIRECTORY has files but is no database; look at it, then remove it by hand" >&2
        exit 1
    fi
    rm -rf -- "$new" # of a run that was cut off
}

write_settings() {
    cat >> "$new/postgresql.conf" <<CONF

listen_addresses = '*'
port = $PORT
unix_socket_directories = '/tmp'
max_connections = 40
shared_buffers = 16MB
logging_collector = off
log_destination = stderr
log_line_prefix = '%m [%p] '
gp_contentid = $CONTENT
gp_fts_probe_interval = 10
gp_fts_probe_timeout = 5
gp_fts_mark_mirror_down_grace_period = 10
$(log_settings)
$([ -z "$TLS" ] || tls_settings)
${SETTINGS:-}
CONF
    echo "gp_dbid=$DBID" > "$new/internal.auto.conf"
    mkdir -p "$new/$log"
}

# A small disk: the write-ahead log stays below half a gigabyte.
log_settings() {
    if [ -n "$six" ]; then
        echo "checkpoint_segments = 2"
        echo "wal_keep_segments = 2"
    else
        cat <<CONF
max_worker_processes = 4
max_wal_size = 128MB
wal_keep_size = 80MB
max_slot_wal_keep_size = -1
wal_log_hints = on
hot_standby = on
password_encryption = scram-sha-256
CONF
    fi
}

# The same on all instances, since copies carry it along. Greenplum 6 takes no key that a group may read, as it may a
# mounted secret's, and reads it only when it starts: there it lies in the directory.
tls_settings() {
    echo "ssl = on"
    if [ -n "$six" ]; then
        install -m 600 "$TLS/tls.crt" "$new/server.crt"
        install -m 600 "$TLS/tls.key" "$new/server.key"
    else
        echo "ssl_cert_file = '$TLS/tls.crt'"
        echo "ssl_key_file = '$TLS/tls.key'"
    fi
}

# Pod addresses change, so the network as a whole is let in, by password.
write_access_rules() {
    cat > "$new/pg_hba.conf" <<HBA
local all         all   trust
local replication all   trust
$host all         all   0.0.0.0/0 $auth
$host all         all   ::/0      $auth
$host replication $user 0.0.0.0/0 $auth
$host replication $user ::/0      $auth
HBA
}

make_instance() {
    initdb -D "$new" --data-checksums --encoding=UTF8 --locale=C --username="$user" \
        --pwfile="$CREDENTIALS/password" --auth-local=trust --auth-host="$auth" > /dev/null
    write_settings
    write_access_rules
    make_roles
}

# In single-user mode, where statements are lines. The superuser is there already.
make_roles() {
    local folder name
    for folder in ${ROLES:-}; do
        name=$(<"$folder/username")
        [ "$name" != "$user" ] || continue
        echo "CREATE ROLE $name LOGIN PASSWORD '$(<"$folder/password")';"
        case " ${MONITORS:-} " in *" $folder "*) [ -n "$six" ] || echo "GRANT pg_monitor TO $name;" ;; esac
    done > "$new/$log/roles.sql"
    postgres --single -D "$new" -c "$utility" postgres < "$new/$log/roles.sql" > "$new/$log/roles.log" 2>&1
    if grep -E '(ERROR|FATAL|PANIC):' "$new/$log/roles.log" >&2; then exit 1; fi
    rm "$new/$log/roles.sql" # it has passwords in it
}

# The rename is the moment in which the volume becomes a database.
finish() {
    sync -f "$new"
    [ ! -d "$DATA_DIRECTORY" ] || rmdir "$DATA_DIRECTORY"
    mv -T "$new" "$DATA_DIRECTORY"
    sync -f "$DATA_DIRECTORY"
    say "$DATA_DIRECTORY is dbid $DBID, content $CONTENT, port $PORT"
}
