#!/bin/sh
# The archive of PostgreSQL's write-ahead log, in a folder on another disk or machine. PostgreSQL runs it:
#   archive_command = 'sh /etc/postfacta/wal.sh put /var/backups/wal %p %f'
#   restore_command = 'sh /etc/postfacta/wal.sh get /var/backups/wal %p %f'
# PostgreSQL takes a restore_command that fails for the end of the archive, and serves what it has got so far. So a file that is
# not what was put there, and one that is missing while later ones are there, end with 255: that stops the recovery.
set -eu
LC_ALL=C
export LC_ALL
what=$1 archive=$2 path=$3 name=$4

sum() {
    sha256sum <"$1"
}

# On the same timeline, which is the first eight digits.
later_one() {
    ls "$archive" | awk -v name="$name" \
        'length($0) == 24 && substr($0, 1, 8) == substr(name, 1, 8) && $0 "" > name "" { print; exit }'
}

case $what in
put)
    if [ -f "$archive/$name" ]; then # PostgreSQL does not know that it was put
        [ "$(sum "$path")" = "$(sum "$archive/$name")" ]
        exit
    fi
    cp "$path" "$archive/$name.part"
    sum "$path" >"$archive/$name.sha256"
    sync "$archive/$name.part" "$archive/$name.sha256"
    mv "$archive/$name.part" "$archive/$name"
    sync "$archive"
    ;;
get)
    later=$(later_one) # before the look at the file itself, which may come meanwhile
    if [ ! -f "$archive/$name" ]; then
        # The first timeline has no history.
        if [ -z "$later" ] || [ "$name" = 00000001.history ]; then exit 1; fi
        echo "$archive/$name is missing, and $later is there" >&2
        exit 255
    fi
    cp "$archive/$name" "$path"
    if [ "$(sum "$path")" != "$(cat "$archive/$name.sha256")" ]; then
        echo "$archive/$name is not what was put there" >&2
        exit 255
    fi
    ;;
*)
    echo "unknown: $what" >&2
    exit 2
    ;;
esac
