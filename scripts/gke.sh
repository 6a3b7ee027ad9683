# shellcheck shell=bash
# What the steps of docs/deploy-gke.md share. It is read by their file of variables, which sets what is used here.

# must SENTENCE COMMAND...: says ok, or STOP (and fails) when the command fails.
must() {
    local what=$1
    shift
    if "$@" > /dev/null 2>&1; then echo "ok: $what"; else echo "STOP, not so: $what" >&2 && return 1; fi
}

# within MINUTES SENTENCE COMMAND...: the same, but the command is tried every 10 seconds for so long.
within() {
    local left=$(($1 * 6)) what=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then echo "STOP, not so: $what" >&2 && return 1; fi
        sleep 10
    done
    echo "ok: $what"
}

# remember NAME VALUE: sets a variable here and in every shell that reads the file of variables. Without a value it is
# empty from then on, so that nothing goes on with an older one.
remember() {
    export "$1=$2"
    if [ -z "$2" ]; then echo "STOP, nothing was found for $1" >&2 && return 1; fi
    printf 'export %s=%q\n' "$1" "$2" >> "$WORK/found.sh"
}

# digest_of FILE: its SHA-256. By Python, since not every machine has sha256sum.
digest_of() {
    python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"
}

# All files of the bundle are in its folder of the bucket; what is missing is copied once more.
bundle_is_there() {
    gcloud storage ls "gs://$MODELS/$SHA256/manifest.json" &&
        gcloud storage rsync "$BUNDLE" "gs://$MODELS/$SHA256" --recursive
}

# deploy [FLAG...]: the chart with all files of $WORK/values, in the order of their names; then it waits until all pods
# are new and ready, has the check pictures asked for, and says ok or STOP. Flags go to `helm upgrade`.
deploy() {
    local file files=()
    for file in "$WORK"/values/*.yaml; do files+=(-f "$file"); done
    if helm upgrade --install "$RELEASE" helm/food-vision --namespace "$NAMESPACE" --create-namespace "${files[@]}" "$@" &&
        kubectl -n "$NAMESPACE" rollout status "deployment/$NAME" --timeout=25m &&
        helm -n "$NAMESPACE" test "$RELEASE" --logs --timeout 15m; then
        echo "ok: $RELEASE serves"
    else
        echo "STOP, not so: $RELEASE serves" >&2 && return 1
    fi
}

# quota METRIC LEAST: so much of a quota is left, of the region's or of the project's.
quota() {
    # shellcheck disable=SC2016  # the dollars are awk's
    must "quota $1 has $2 left" awk -F, -v name="$1" -v least="$2" \
        '$1 == name && $2 - $3 >= least { found = 1 } END { exit !found }' "$WORK/quotas.csv"
}

# The NVIDIA driver that GKE installed on the nodes is R580 or newer. Its installer is an init container.
driver_is_new() {
    kubectl -n kube-system logs -l k8s-app=nvidia-gpu-device-plugin -c nvidia-driver-installer --tail=-1 |
        grep -oE 'Driver Version: [0-9]+' | awk '{ if ($3 < 580) old = 1 } END { exit old || !NR }'
}

# The name that clients call leads to the address.
name_leads_here() {
    python3 -c 'import socket, sys; sys.exit(socket.gethostbyname(sys.argv[1]) != sys.argv[2])' "$HOST" "$ADDRESS"
}

# certificate_is_there [--location=REGION]: Certificate Manager has issued it.
certificate_is_there() {
    gcloud certificate-manager certificates describe food-vision --format='value(managed.state)' "$@" | grep -qx ACTIVE
}

# No rule of a load balancer has the address any more. Not known without the address, or when gcloud does not answer.
balancer_is_gone() {
    local rules
    [ -n "${ADDRESS:-}" ] &&
        rules=$(gcloud compute forwarding-rules list --filter="IPAddress=$ADDRESS" --format='value(name)') &&
        [ -z "$rules" ]
}
