#!/bin/sh
# Tells Spark which GPUs are here: one line such as {"name": "gpu", "addresses": ["0","1"]}.
# Spark runs it where an executor starts (spark.executor.resource.gpu.discoveryScript), on a standalone cluster where a
# worker starts (spark.worker.resource.gpu.discoveryScript).
#
# An address is the number N of torch's cuda:N. CUDA numbers the GPUs that a process may use from 0 without gaps, so
# it is their count that is asked for. In a container nvidia-smi lists the container's own GPUs; on a bare node it lists
# all of the node's and knows nothing of CUDA_VISIBLE_DEVICES, which CUDA heeds, so it is heeded here as well.
set -u

fail() {
    echo "discover_gpus.sh: $1" >&2
    exit 1
}

command -v nvidia-smi >/dev/null 2>&1 ||
    fail "there is no nvidia-smi on the PATH $PATH. Install NVIDIA's driver (in a container, use NVIDIA's container \
runtime), or use device=cpu and leave out what asks for GPUs."
listed=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>&1) ||
    fail "nvidia-smi failed: $listed"
# A GPU that can't be asked gives a line of words.
count=$(printf '%s\n' "$listed" | grep -c '^[[:space:]]*[0-9][0-9]*[[:space:]]*$')
[ "$count" -gt 0 ] || fail "nvidia-smi lists no GPU: $listed"

if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    visible=0
    old_ifs=$IFS
    IFS=', '
    for device in $CUDA_VISIBLE_DEVICES; do
        case $device in
            GPU-* | MIG-*) ;;
            # As CUDA does: what follows a number of no GPU is hidden too.
            *[!0-9]*) break ;;
            *) [ "$device" -lt "$count" ] || break ;;
        esac
        visible=$((visible + 1))
    done
    IFS=$old_ifs
    [ "$visible" -gt 0 ] ||
        fail "CUDA_VISIBLE_DEVICES='$CUDA_VISIBLE_DEVICES' hides all $count GPUs here. Unset it, or name some."
    count=$visible
fi

addresses='"0"'
number=1
while [ "$number" -lt "$count" ]; do
    addresses="$addresses,\"$number\""
    number=$((number + 1))
done
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
