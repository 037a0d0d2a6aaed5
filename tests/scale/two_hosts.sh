#!/bin/sh
# Two network namespaces as two hosts: the same files as on one host; then each host goes in turn, cable first, and the same
# command on both continues. Needs root and iproute2.
#
#     tests/scale/two_hosts.sh .venv/bin/python [FOLDER]
set -eu
python=$1
work=${2:-$(mktemp -d)}
export OMP_NUM_THREADS=1 EDGEPROOF_PATIENCE=${EDGEPROOF_PATIENCE:-30}
train="train --data synthetic --set data.limit_train=100 --model lenet --lr 0.02 --epochs 60 --batch-size 31"
attack="attack pgd-linf --model $work/one/train --eps 0.1 --steps 5 --limit 50 --batch-size 8"

plug() {
    for host in a b; do ip netns add edgeproof-$host; done
    ip link add edge-a netns edgeproof-a type veth peer name edge-b netns edgeproof-b
    for host in a b; do
        ip -n edgeproof-$host addr add "$(address $host)/24" dev edge-$host
        ip -n edgeproof-$host link set lo up
        ip -n edgeproof-$host link set edge-$host up
    done
}

unplug() {
    for host in a b; do
        stop $host
        ip netns del edgeproof-$host 2>/dev/null || true
    done
}

address() { [ "$1" = a ] && echo 10.77.0.1 || echo 10.77.0.2; }

stop() { for process in $(ip netns pids edgeproof-"$1" 2>/dev/null); do kill -9 "$process" 2>/dev/null || true; done; }

# on HOST COMMAND...: a host's part of a command
on() {
    host=$1
    shift
    ip netns exec edgeproof-"$host" env GLOO_SOCKET_IFNAME=edge-"$host" "$python" -m torch.distributed.run --nnodes 2 \
        --node-rank "$([ "$host" = a ] && echo 0 || echo 1)" --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29400 \
        --local-addr "$(address "$host")" cli.py "$@" 2> "$work/$host.err"
}

both() {
    on a "$@" &
    on b "$@"
    wait $!
}

same() { cmp "$1" "$2" && echo "same bytes: $(basename "$1")"; }

# lose HOST: it goes in the middle of a training, and the other says so in one line
lose() {
    left=$([ "$1" = a ] && echo b || echo a)
    on a $train --out "$work/lost-$1" & first=$!
    on b $train --out "$work/lost-$1" & second=$!
    while [ ! -e "$work/lost-$1/state/epoch.safetensors" ]; do sleep 0.05; done
    ip -n edgeproof-"$1" link set edge-"$1" down
    stop "$1"
    gone=$(date +%s)
    wait $first && exit 1
    wait $second && exit 1
    echo "host $1 has gone; noticed after $(($(date +%s) - gone)) s:"
    grep '^error:' "$work/$left.err"
    [ "$(grep -c '^error:' "$work/$left.err")" = 1 ]
    [ ! -e "$work/lost-$1/manifest.json" ]
    ip -n edgeproof-"$1" link set edge-"$1" up
    both $train --out "$work/lost-$1"
    same "$work/lost-$1/model.safetensors" "$work/one/train/model.safetensors"
}

trap unplug EXIT
unplug
plug
"$python" -m torch.distributed.run --standalone --nproc-per-node 2 cli.py $train --out "$work/one/train"
"$python" cli.py $attack --out "$work/one/attack"
both $train --out "$work/two/train"
both $attack --out "$work/two/attack"
for name in model.safetensors history.json; do same "$work/one/train/$name" "$work/two/train/$name"; done
for name in adversaries.npz clean.npz set.json; do same "$work/one/attack/$name" "$work/two/attack/$name"; done
lose b
lose a
echo "two hosts: all well"
