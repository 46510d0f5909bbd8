#!/bin/bash
# The trainer under a real Slurm: one node of four processors on this machine, as root (Debian: slurmctld slurmd slurm-client munge openmpi-bin).
# By hand: bash test/outside/slurm.sh > test/outside/slurm.txt
set -eu
repository=$(cd "$(dirname "$0")/../.." && pwd)
ropeway="node $repository/bin/ropeway.js"
place=$(mktemp -d /tmp/ropeway-slurm.XXXXXX)
chmod 755 "$place"
export SLURM_CONF=$place/slurm.conf
daemons=()
end() {
  scancel --quiet --user=root 2>/dev/null || true
  sleep 1
  for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
  rm -rf "$place" 2>/dev/null || { sleep 2; rm -rf "$place"; }
}
trap end EXIT

head -c 1024 /dev/urandom >"$place/munge.key"
chmod 400 "$place/munge.key"
mkdir -p "$place/state" "$place/spool-n1" "$place/tmp"
cat >"$SLURM_CONF" <<CONF
ClusterName=ropeway
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$place/munge.socket
CryptoType=crypto/munge
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
ReturnToService=2
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool-%n
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd-%n.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd-%n.log
KillWait=60
TmpFS=$place/tmp
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=26821 CPUs=4 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
# The daemons must not keep this script's output open.
munged --foreground --force --key-file="$place/munge.key" --socket="$place/munge.socket" --pid-file="$place/munge.pid" \
  --log-file="$place/munge.log" --seed-file="$place/munge.seed" >/dev/null 2>&1 &
daemons+=($!)
for _ in $(seq 50); do [ -S "$place/munge.socket" ] && break || sleep 0.1; done
slurmctld -D >/dev/null 2>&1 &
daemons+=($!)
slurmd -D -N n1 >/dev/null 2>&1 &
daemons+=($!)
for _ in $(seq 100); do [ "$(sinfo -h -t idle -o %D 2>/dev/null || true)" = 1 ] && break || sleep 0.2; done

cd "$place"
for i in $(seq 2000); do printf 'the moving rope never stops and cabin %d joins it ' $((i * i % 97)); done >text.txt
cat >job.yml <<JOB
model: {architecture: llama, layers: 2, width: 64, heads: 4}
data: {text: text.txt, validation: 0.1}
tokenizer: characters
data_parallel: true
context: 64
batch: 2
accumulate: 4
steps: 60
optimizer: {learning_rate: 0.003}
evaluate: {every: 30, batches: 4}
checkpoint: {every: 20, keep: 2}
schedule: {decay_steps: 2000}
JOB
sed 's/steps: 60/steps: 2000/' job.yml >long.yml
shown() { grep -v -e '^$' -e 'ropeway generate' -e 'ropeway serve' -e 'tokens/s' | sed "s#$place/##g; s#$place##g"; }
hash_of() { cat "$1"/checkpoints/step-000060/{model,optimizer}.safetensors | sha256sum | cut -c1-16; }

sinfo --version
sinfo -h -o 'partition %P: %D nodes, %t'
echo
echo '$ srun --ntasks=2 ropeway train job.yml --here --out two'
srun --quiet --ntasks=2 $ropeway train job.yml --here --out two 2>&1 | shown | tail -3
echo
echo '$ sbatch: mpirun -n 4'
cat >batch.sh <<BATCH
#!/bin/bash
#SBATCH --ntasks=4 --output=batch.out
mpirun --allow-run-as-root --bind-to none $ropeway train job.yml --here --out four
BATCH
sbatch --quiet --wait batch.sh && shown <batch.out | tail -2
echo
echo '$ ropeway train job.yml --here --out one'
$ropeway train job.yml --here --out one 2>&1 | shown | tail -1
echo
echo 'SHA-256 of weights and moments after step 60:'
for out in one two four; do echo "  $out  $(hash_of $out)"; done
echo
echo '$ scancel --signal=TERM of a job that has begun, then the same job once more on four tasks'
cat >long.sh <<BATCH
#!/bin/bash
#SBATCH --ntasks=2 --output=long.out
exec srun --quiet $ropeway train long.yml --here --out long
BATCH
id=$(sbatch --parsable long.sh)
for _ in $(seq 300); do [ -d long/checkpoints/step-000040 ] && break || sleep 0.2; done
scancel --signal=TERM "$id"
for _ in $(seq 300); do [ -z "$(squeue -h -j "$id" 2>/dev/null)" ] && break || sleep 0.2; done
shown <long.out | grep -E 'Stopped' | sed -E 's/[0-9]{2,}/N/g'
steps=$(($(cat long/checkpoints/*/trainer.json | grep -o '"stepsDone": *[0-9]*' | grep -o '[0-9]*' | sort -n | tail -1) + 20))
srun --quiet --ntasks=4 $ropeway train long.yml --here --out long --steps $steps 2>&1 | shown | grep -oE 'going on after step|Finished after step|error.*'
