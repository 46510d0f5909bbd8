import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { readCurve } from '../../src/cli/commands/curve.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-curve-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))

test('a curve is what the last life of a run says of each step, in order, whatever was cut off', async () => {
  const lines = [
    { kind: 'start', name: 'whale', step: 0 },
    { kind: 'metrics', step: 0, held_out_loss: 5 },
    { kind: 'metrics', step: 10, loss: 4 },
    { kind: 'metrics', step: 20, held_out_loss: 4 },
    { kind: 'metrics', step: 10, held_out_loss: 4.5 },
    { kind: 'metrics', step: 20, held_out_loss: 3.9 },
  ]
  const text = lines.map((line) => JSON.stringify(line)).join('\n')
  writeFileSync(join(folder, 'metrics.jsonl'), `${text}\n{"kind":"metrics","step":30,"held_out`)
  expect(await readCurve(folder)).toEqual({
    name: 'whale',
    heldOut: [
      { step: 0, loss: 5 },
      { step: 10, loss: 4.5 },
      { step: 20, loss: 3.9 },
    ],
  })
})

test('a folder without a run, and a run without an evaluation, are said', async () => {
  await expect(readCurve(join(folder, 'nowhere'))).rejects.toThrow('does not exist')
  const path = join(folder, 'early.jsonl')
  writeFileSync(path, '{"kind":"metrics","step":1,"loss":4}\n')
  await expect(readCurve(path)).rejects.toThrow('no evaluation yet')
})
