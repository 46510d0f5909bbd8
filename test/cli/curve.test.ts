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

test('another metric is shown by its name, and a wrong name says which there are', async () => {
  const path = join(folder, 'rewards.jsonl')
  const lines = [
    { kind: 'metrics', atMs: 1, step: 1, reward: 0.25, loss: 0 },
    { kind: 'metrics', atMs: 2, step: 2, reward: 0.5, loss: 0 },
    { kind: 'metrics', atMs: 3, step: 2, task_sums: 0.75 },
  ]
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
  expect((await readCurve(path, 'reward')).heldOut).toEqual([
    { step: 1, loss: 0.25 },
    { step: 2, loss: 0.5 },
  ])
  expect((await readCurve(path, 'task_sums')).heldOut).toEqual([{ step: 2, loss: 0.75 }])
  await expect(readCurve(path)).rejects.toMatchObject({
    fix: expect.stringContaining('loss, reward, task_sums'),
  })
  await expect(readCurve(path, 'rewards')).rejects.toThrow('has no metric rewards')
})
