#!/bin/sh
# Gives the two daemons the rights that they need on a Kafka cluster with ACLs, and no others.
#
#   deploy/kafka-acls.sh BOOTSTRAP PLAN-NAME REPLICATOR CONSUMER [TOPIC]
#
# REPLICATOR and CONSUMER are principals such as User:modshift-replicator; one and the same is as good.
# TOPIC is log.topic of the plan, modshift.PLAN-NAME.changes unless the plan says otherwise. Kafka's own
# kafka-acls.sh must be in PATH; KAFKA_ACLS_ARGS are further arguments of it, such as
# "--command-config admin.properties".
#
# Whichever daemon comes first creates the topic. Where an administrator has created it, with the
# settings that the daemons ask for, the rights to Create may be left out.
# `modshift restart-copy` and `modshift cleanup` delete the topic, as whom the plan's log.properties say.
# Where that principal may not (Delete on the topic), they name it, and an administrator deletes it.
set -eu

# who, kind of resource, operation
rights() {
    cat <<'END'
replicator topic Create
replicator topic Describe
replicator topic DescribeConfigs
replicator topic Write
consumer topic Create
consumer topic Describe
consumer topic DescribeConfigs
consumer topic Read
consumer group Read
END
}

[ $# -ge 4 ] && [ $# -le 5 ] || {
    echo "usage: $0 BOOTSTRAP PLAN-NAME REPLICATOR CONSUMER [TOPIC]" >&2
    exit 3
}
bootstrap=$1
group=modshift.$2
topic=${5:-modshift.$2.changes}

rights | while read -r who kind operation; do
    case $who in
    replicator) principal=$3 ;;
    *) principal=$4 ;;
    esac
    case $kind in
    topic) name=$topic ;;
    *) name=$group ;;
    esac
    # shellcheck disable=SC2086  # a list of arguments
    kafka-acls.sh --bootstrap-server "$bootstrap" ${KAFKA_ACLS_ARGS:-} --add \
        --allow-principal "$principal" --operation "$operation" "--$kind" "$name" </dev/null
done
