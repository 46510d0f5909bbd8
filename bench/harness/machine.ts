/** Where a figure was measured: it means nothing without. No host name, no user, no path. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, totalmem } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { systemClock } from '../../src/base/clock.ts'

export interface RecordedSetting {
  date: string
  commit: string
  /** True when src or native differed from that commit. */
  changed: boolean
  model: string
  machine: {
    cpu: string
    cores: number
    memoryGiB: number
    instructionSets: readonly string[]
    /** Load averages over one minute: other work on the machine makes figures worse. */
    loadBefore: number
    loadAfter: number
  }
  versions: Readonly<Record<string, string>>
}

/** The extensions that decide the speed of products, as Linux names them. */
const instructionSets = [
  ...['avx2', 'fma', 'f16c', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'avx_vnni'],
  ...['amx_tile', 'amx_int8', 'amx_bf16', 'asimd', 'asimddp', 'i8mm', 'bf16', 'sve'],
]

const repository = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

/** Reads the setting now; `end` adds what is known after the run. */
export function describeSetting(modelPath: string) {
  const loadBefore = loadavg()[0]!
  return {
    end: (versions: Readonly<Record<string, string>>): RecordedSetting => ({
      date: new Date(systemClock.unixMs()).toISOString(),
      commit: git('rev-parse', '--short=12', 'HEAD') || 'unknown',
      changed: git('status', '--porcelain', '--', 'src', 'native') !== '',
      model: basename(modelPath),
      machine: {
        cpu: cpus()[0]?.model.trim() ?? 'unknown',
        cores: availableParallelism(),
        memoryGiB: Math.round(totalmem() / 2 ** 30),
        instructionSets: instructionSetsHere(),
        loadBefore: Number(loadBefore.toFixed(2)),
        loadAfter: Number(loadavg()[0]!.toFixed(2)),
      },
      versions: { node: process.versions.node, ...ownVersions(), ...versions },
    }),
  }
}

function git(...args: string[]): string {
  return spawnSync('git', args, { cwd: repository, encoding: 'utf8' }).stdout?.trim() ?? ''
}

function instructionSetsHere(): string[] {
  if (!existsSync('/proc/cpuinfo')) return []
  const line = /^(?:flags|Features)\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? ''
  const flags = new Set(line.trim().split(/\s+/))
  return instructionSets.filter((name) => flags.has(name))
}

/** Dependencies whose version decides a figure; package.json pins them exactly. */
function ownVersions(): Record<string, string> {
  const { version, dependencies } = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8')) as {
    version: string
    dependencies: Record<string, string>
  }
  const pinned = ['@node-llama-cpp/linux-x64', 'koffi'].map((name) => [name, dependencies[name] ?? 'unknown'])
  return { ropeway: version, ...Object.fromEntries(pinned) }
}
