import { readFileSync } from 'node:fs'

/** The most memory that this process has had at a time. Linux: getrusage's figure would begin at its parent's. */
export function peakBytes(): number {
  const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return Number(line![1]) * 1024
}
