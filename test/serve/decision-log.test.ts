import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { type Decision, replay } from '../../src/serve/decision-log.ts'
import { Engine } from '../../src/serve/engine.ts'
import { LineFile } from '../../src/serve/trace.ts'
import { refusalOf } from '../formats/folders.ts'
import { FakeDevice } from './fake-device.ts'
import { request } from './requests.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-decisions-'))
afterAll(() => rmSync(folder, { recursive: true }))

const shape = { vocabularySize: 24, contextMax: 128, blockTokens: 4, blockCount: 24 }

async function logged(): Promise<Decision[]> {
  const path = join(folder, 'decisions.ndjson')
  const file = new LineFile(path)
  const clock = new ManualClock()
  const options = { runningMax: 4, stepTokensMax: 16, queueLimitMs: Number.POSITIVE_INFINITY, guessesMax: 3 }
  const engine = new Engine(new FakeDevice(shape, clock), options, clock, () => {}, {
    decisions: (decision) => file.write(decision),
  })
  for (let i = 0; i < 8; i++) {
    engine.submit(
      request({ id: `r${i}`, prompt: Array.from({ length: 20 }, (_, t) => (i + t) % 24), maxTokens: 20 }),
    )
    await engine.step()
  }
  engine.cancel('r3')
  while (await engine.step());
  file.close()
  return readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
}

test('the decision log of a run replays from its file to identical plans', async () => {
  const decisions = await logged()
  const plans = decisions.filter(({ type }) => type === 'plan').length
  expect(plans).toBeGreaterThan(20)
  expect(replay(decisions)).toEqual({ iterations: plans })
})

test('a log that was changed does not replay, and the replay says where', async () => {
  const decisions = await logged()
  const submit = decisions.findIndex((decision) => decision.type === 'submit' && decision.request.id === 'r4')
  const changed = decisions.filter((_, i) => i !== submit)
  expect(replay(changed).difference).toMatchObject({ logged: expect.stringContaining('r4') })
  expect(() => replay(changed.slice(1))).toThrow("begins with its 'begin' line")
})

test('a line file keeps the order of lines across its buffer', () => {
  const path = join(folder, 'lines.ndjson')
  const file = new LineFile(path)
  for (let i = 0; i < 3000; i++) file.write({ i, text: '가'.repeat(20) })
  file.close()
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n')
  expect(lines.map((line) => JSON.parse(line).i)).toEqual([...Array(3000).keys()])
})

test.skipIf(!existsSync('/dev/full'))('on a full disk it ends, says so once, and nothing fails', () => {
  const faults: string[] = []
  const file = new LineFile('/dev/full', { onFault: (message) => faults.push(message) })
  for (let i = 0; i < 3; i++) {
    file.write({ i })
    file.flush()
  }
  file.close()
  expect(faults).toEqual([expect.stringMatching(/^\/dev\/full ends here, .* no space left/)])
})

test('a file that cannot be opened is a refusal that names it', () => {
  const path = join(folder, 'nowhere', 'trace.ndjson')
  expect(refusalOf(() => new LineFile(path))).toMatch(`${path} cannot be written: ENOENT`)
})
