import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'

/** Bytes of memory that a process holds now: from /proc where it is, else from ps. NaN when neither knows. */
export function residentBytes(pid: number): number {
  const file = `/proc/${pid}/status`
  const kibibytes = existsSync(file)
    ? /^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(file, 'utf8'))?.[1]
    : spawnSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' }).stdout?.trim()
  return kibibytes ? Number(kibibytes) * 1024 : Number.NaN
}
