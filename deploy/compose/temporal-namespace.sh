#!/bin/sh
# Waits for the Temporal server, then makes the namespace and registers the search
# attributes of activity-core. It ends only when a query may use all of them, so
# whatever starts after it meets a server that is ready. Every step may be
# repeated: it runs at each `up`.
set -eu

: "${TEMPORAL_ADDRESS:?is missing: it must be host:port, for example temporal:7233}"
: "${TEMPORAL_NAMESPACE:?is missing: it names the namespace, for example default}"
limit=${WAIT_SECONDS:-240}
pause=${PAUSE_SECONDS:-2}

# address prints the server's address with the host resolved. The command line
# client looks names up in more ways than one and gives up where Docker's name
# server answers one of them late; the C library asks the simple question. It is
# asked anew each time because a restarted server may have another address.
address() {
	host=${TEMPORAL_ADDRESS%:*}
	ip=$(getent hosts "$host" 2>/dev/null | awk 'NR == 1 { print $1 }') || ip=
	case "$ip" in
	'') ip=$host ;;
	*:*) ip="[$ip]" ;;
	esac
	echo "$ip:${TEMPORAL_ADDRESS##*:}"
}

cli() {
	temporal "$@" --address "$(address)" --namespace "$TEMPORAL_NAMESPACE"
}

# repeat WHAT COMMAND… runs the command until it succeeds.
repeat() {
	what=$1
	shift
	until answer=$("$@" 2>&1); do
		if [ "$(date +%s)" -ge "$deadline" ]; then
			echo "temporal-namespace: $what failed for $limit s, last answer: $answer" >&2
			exit 1
		fi
		sleep "$pause"
	done
	echo "temporal-namespace: $what: ok"
}

namespace() {
	cli operator namespace describe || cli operator namespace create --retention 72h
}

attributes() {
	cli operator search-attribute create \
		--name ActivityId --type Keyword \
		--name ActivityName --type Keyword \
		--name ActivitySpecHash --type Keyword
}

# The server refuses a query that names an attribute it does not know yet.
query() {
	cli workflow count --query "ActivityId = 'none' AND ActivityName = 'none' AND ActivitySpecHash = 'none'"
}

deadline=$(($(date +%s) + limit))
repeat "server at $TEMPORAL_ADDRESS" cli operator cluster health
repeat "namespace $TEMPORAL_NAMESPACE" namespace
repeat "search attributes" attributes
repeat "query by search attribute" query
