import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { hashOfFile, hashOfLargeFile } from '../../src/base/files.ts'
import { atOnce, pausesUntil, type Steps, withPauses } from '../../src/base/pauses.ts'
import { checkpointFolder, newestWhole } from '../../src/control/jobs/output-checkpoints.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'

const folder = temporaryFolder('pauses', afterAll)
const pieces = 8
const large = Buffer.alloc(pieces << 20, 'rope')
const sha256 = createHash('sha256').update(large).digest('hex')

function* counting(to: number): Steps<number> {
  for (let i = 0; i < to; i++) yield
  return to
}

test('work in steps comes to its end, at once and with pauses', async () => {
  expect(atOnce(counting(1000))).toBe(1000)
  const pause = pausesUntil(new AbortController().signal, () => new Error('interrupted'))
  expect(await withPauses(counting(1000), pause)).toBe(1000)
})

test('work that never ends hears timers and ends by its signal', async () => {
  const stop = new AbortController()
  const pause = pausesUntil(stop.signal, () => new Error('interrupted'))
  setTimeout(() => stop.abort(), 0)
  await expect(withPauses(counting(Number.POSITIVE_INFINITY), pause)).rejects.toThrow('interrupted')
})

/** How often the event loop turned until `work` was done. */
async function turnsDuring(work: Promise<unknown>): Promise<number> {
  let turns = 0
  let isOver = false
  const count = () => {
    turns++
    if (!isOver) setImmediate(count)
  }
  setImmediate(count)
  await work
  isOver = true
  return turns
}

test('a large file is hashed while the event loop turns, to the same hash as in one call, and ends where it is asked to', async () => {
  const path = join(folder, 'large')
  writeFileSync(path, large)
  expect(hashOfFile(path)).toBe(sha256)
  const hash = hashOfLargeFile(path)
  expect(await turnsDuring(hash)).toBeGreaterThanOrEqual(pieces)
  expect(await hash).toBe(sha256)
  let left = 3
  const pause = async () => {
    if (--left === 0) throw new Error('interrupted')
  }
  await expect(hashOfLargeFile(path, pause)).rejects.toThrow('interrupted')
  expect(left).toBe(0)
})

test('a server that looks for the newest whole checkpoint of a job answers others meanwhile', async () => {
  const at = checkpointFolder(folder, 3)
  mkdirSync(at, { recursive: true })
  writeFileSync(join(at, 'weights'), large)
  writeFileSync(
    join(at, 'ropeway.json'),
    JSON.stringify({ files: { weights: { bytes: large.length, sha256 } } }),
  )
  const newest = newestWhole(folder, () => expect.unreachable())
  expect(await turnsDuring(newest)).toBeGreaterThanOrEqual(pieces)
  expect((await newest)?.step).toBe(3)
})
