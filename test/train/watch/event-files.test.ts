import { readFileSync } from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { crc32, crc32c, maskedCrc32c } from '../../../src/train/watch/checksums.ts'
import type { RunEvent } from '../../../src/train/watch/sink.ts'
import { TensorBoardFile } from '../../../src/train/watch/tensorboard.ts'
import { WandbFile } from '../../../src/train/watch/wandb.ts'
import { temporaryFolder } from '../temporary-folder.ts'

const folder = temporaryFolder('events', afterAll)
const start: RunEvent = {
  ...{ kind: 'start', atMs: 1_700_000_000_000, run: 'abcd1234', name: 'whale', steps: 400, stepsDone: 7 },
  settings: { batch: 3 },
}
const points = (count: number): RunEvent[] =>
  Array.from({ length: count }, (_, i) => ({
    ...{ kind: 'metrics', atMs: 1_700_000_001_000, step: 8 + i, values: { loss: 2 - i / 1000 } },
  }))
const end: RunEvent = { kind: 'end', atMs: 1_700_000_009_000, outcome: 'finished', step: 400 }

test('both checksums give the published values', () => {
  const digits = Buffer.from('123456789')
  expect(crc32c(digits)).toBe(0xe3069283)
  expect(crc32(digits)).toBe(0xcbf43926)
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa)
})

test('every record of a TensorBoard file has its length and both checksums', async () => {
  const file = new TensorBoardFile(folder, 1_700_000_000_000)
  await file.write([start, ...points(3), end])
  await file.write(points(2))
  const bytes = readFileSync(file.path)
  const records: Buffer[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at))
    const data = bytes.subarray(at + 12, at + 12 + length)
    expect(bytes.readUInt32LE(at + 8)).toBe(maskedCrc32c(bytes.subarray(at, at + 8)))
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedCrc32c(data))
    records.push(data)
    at += 16 + length
  }
  expect(records).toHaveLength(7)
  expect(records[0]!.toString('latin1')).toContain('brain.Event:2')
  // wall_time as a double, step 8 as a varint, then a summary with one value: tag `loss`, 2 as a float.
  const expected = '09' + '00004040fc54d941' + '1008' + '2a0d' + '0a0b' + '0a046c6f7373' + '1500000040'
  expect(records[2]!.toString('hex')).toBe(expected)
})

test('a W&B file keeps records whole across blocks of 32 KiB', async () => {
  const file = new WandbFile(folder, 'abcd1234', 1_700_000_000_000, { project: 'ropeway' })
  await file.write([start, ...points(700)])
  await file.write([...points(700), end])
  const bytes = readFileSync(`${file.folder}/run-abcd1234.wandb`)
  expect(bytes.subarray(0, 7).toString('hex')).toBe('3a572642e1be00')
  expect(bytes.length).toBeGreaterThan(3 * 32_768)
  let records = 0
  let held = 0
  for (let at = 7; at < bytes.length; ) {
    const room = 32_768 - (at % 32_768)
    if (room < 7) {
      expect(bytes.subarray(at, at + room).every((byte) => byte === 0)).toBe(true)
      at += room
      continue
    }
    const [length, kind] = [bytes.readUInt16LE(at + 4), bytes[at + 6]!]
    const content = bytes.subarray(at + 7, at + 7 + length)
    expect(bytes.readUInt32LE(at)).toBe(crc32(Buffer.concat([Uint8Array.of(kind), content])))
    if (kind === 1 || kind === 4) records++
    if (kind !== 1) held++
    at += 7 + length
  }
  expect(records).toBe(1403)
  expect(held).toBeGreaterThan(3)
})
