#!/bin/sh
# Makes the stores that the Temporal server needs, or brings them up to this
# release's schema. Every step may be repeated: it runs at each `up`.
#
# temporal-sql-tool reads SQL_PLUGIN, SQL_HOST, SQL_PORT, SQL_USER and
# SQL_PASSWORD; temporal-elasticsearch-tool reads ES_SERVER. Both carry the
# schemas of their release.
set -eu

: "${VISIBILITY_STORE:?is missing: it must be elasticsearch or sql}"

# sql_store DATABASE SCHEMA
sql_store() {
	echo "temporal-schema: database $1"
	temporal-sql-tool --database "$1" create-database
	temporal-sql-tool --database "$1" setup-schema --version 0.0
	temporal-sql-tool --database "$1" update-schema --schema-name "postgresql/v12/$2"
}

# elasticsearch_store INDEX
elasticsearch_store() {
	echo "temporal-schema: index $1"
	temporal-elasticsearch-tool setup-schema
	temporal-elasticsearch-tool create-index --index "$1"
	temporal-elasticsearch-tool update-schema --index "$1"
}

case "$VISIBILITY_STORE" in
elasticsearch) : "${ES_VISIBILITY_INDEX:?is missing: it names the index, for example temporal_visibility_v1_dev}" ;;
sql) ;;
*)
	echo "temporal-schema: VISIBILITY_STORE is \"$VISIBILITY_STORE\": it must be elasticsearch or sql" >&2
	exit 2
	;;
esac

sql_store temporal temporal
case "$VISIBILITY_STORE" in
elasticsearch) elasticsearch_store "$ES_VISIBILITY_INDEX" ;;
sql) sql_store temporal_visibility visibility ;;
esac
echo "temporal-schema: done"
