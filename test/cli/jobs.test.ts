/** Jobs on the command line: a real one runs, prints, reports and leaves files. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { JobView, MetricPoint } from '../../src/api/control/jobs.ts'
import { systemClock } from '../../src/base/clock.ts'
import { JobDisplay, lossMetric } from '../../src/cli/job-progress.ts'
import { loopStarters } from '../../src/cli/service-parts.ts'
import type { Loop } from '../../src/control/service/loop.ts'
import { ropeway, type Workbench, workbench } from './command-line.ts'

const program = `
t=1700000000000
say() { printf '%s\n' "$1" >> "$ROPEWAY_EVENTS"; }
say '{"event": "start", "total_steps": 8, "t": '$t'}'
for step in 1 2 3 4 5 6 7 8; do
  say '{"event": "metrics", "step": '$step', "values": {"loss": '$((10 - step))'}, "t": '$t'}'
  echo "step $step"
done
echo "rank $RANK complains" >&2
[ "$RANK" = 0 ] || exit 0
mkdir -p "$ROPEWAY_OUTPUT/plots"
echo drawn > "$ROPEWAY_OUTPUT/plots/loss.svg"
echo text > "$ROPEWAY_OUTPUT/notes.txt"
ln -s /etc/hostname "$ROPEWAY_OUTPUT/plots/elsewhere"
`

let bench: Workbench
let loops: Loop[] = []
const path = (name: string) => join(bench.folder, name)

beforeAll(async () => {
  bench = await workbench(systemClock)
  loops = []
  for (const start of loopStarters) loops.push(await start(bench.parts))
  // Two ranks take two.
  await ropeway(['cluster', 'edit', 'local', '--slots', 'cpu=2'])
  mkdirSync(path('work'))
  const job = { name: 'steps', run: ['sh', 'main.sh'], processes: 2, grace: '2s' }
  writeFileSync(path('work/main.sh'), program)
  writeFileSync(path('work/job.yml'), JSON.stringify(job))
  mkdirSync(path('long'))
  writeFileSync(
    path('long/job.yml'),
    'name: long\nrun: [sleep, "600"]\ngrace: 1s\njob: {priority: 10, cluster: local}\n',
  )
})
afterAll(async () => {
  for (const loop of loops.toReversed()) await loop.stop()
  await bench[Symbol.asyncDispose]()
})

test('a job that is attached to says its states until it ends, and its exit code is the command’s', async () => {
  const ran = await ropeway(['job', 'run', '-f', path('work/job.yml')])
  expect(ran).toMatchObject({ code: 0, out: '' })
  expect(ran.err).toMatch(/^steps job_\w+\n(.*\n)*(preparing|running): .*\n(.*\n)*success: /)
  writeFileSync(path('work/wrong.yml'), 'name: wrong\nrun: [sh, -c, "exit 3"]\njob: {retries: 0}\n')
  const failed = await ropeway(['job', 'run', '-f', path('work/wrong.yml'), '--json'])
  expect(failed.code).toBe(1)
  expect(failed.json.at(-1)).toMatchObject({ name: 'wrong', state: 'failed' })
})

test('logs are filtered by rank, stream, text and number, and written into a file that was not there', async () => {
  const logs = async (...flags: string[]) => (await ropeway(['job', 'logs', 'steps', ...flags])).out
  expect((await logs('--rank', '1', '--stream', 'out')).trim().split('\n')).toHaveLength(8)
  expect(await logs('--contains', 'complains', '--rank', '1')).toBe('rank 1 complains\n')
  expect(await logs('--head', '2', '--rank', '0')).toBe('step 1\nstep 2\n')
  expect(await logs('--since', '1h', '--stream', 'err', '--times', '--rank', '0')).toMatch(/\[0\] err rank 0/)
  const [line] = (await ropeway(['logs', 'steps', '--json', '--head', '1'])).json
  expect(line).toMatchObject({ attempt: 1, stream: 'out', text: 'step 1' })
  expect((await ropeway(['logs', 'steps', '-o', path('all.log')])).err).toContain('18 lines')
  expect(readFileSync(path('all.log'), 'utf8')).toContain('step 8\n')
  expect((await ropeway(['logs', 'steps', '-o', path('all.log')])).code).toBe(6)
  expect((await ropeway(['logs', 'steps', '-o', path('nowhere/all.log')])).code).toBe(1)
})

test('metrics are listed and shown, and files are fetched, but nothing that a link leads to', async () => {
  expect((await ropeway(['job', 'metrics', 'steps', '--json'])).json).toEqual([
    { id: 'loss', name: 'loss', points: 8, first_step: 1, last_step: 8 },
  ])
  expect((await ropeway(['job', 'metrics', 'steps', 'loss'])).out).toMatch(/^1\t9\n(.*\n)*8\t2\n$/)
  expect((await ropeway(['job', 'artifacts', 'steps', '-q'])).out).toMatch(/\nnotes.txt\nplots\/loss.svg\n$/)
  expect((await ropeway(['job', 'download', 'steps', 'plots', '--into', path('got')])).code).toBe(0)
  expect(readFileSync(path('got/plots/loss.svg'), 'utf8')).toBe('drawn\n')
  expect(existsSync(path('got/notes.txt'))).toBe(false)
  expect((await ropeway(['job', 'download', 'steps', 'none', '--into', path('got')])).code).toBe(3)
  const { readJobArtifact } = await import('../../src/api/control/job-endpoints.ts')
  const params = { project: 'default', job: 'steps' }
  const ask = (query: { path: string }, range?: string) =>
    bench.service.owner.bytes(readJobArtifact, { params, query, headers: { ...(range && { range }) } })
  const part = await ask({ path: 'notes.txt' }, 'bytes=2-')
  expect([part.status, await part.text()]).toEqual([206, 'xt\n'])
  await expect(ask({ path: 'plots/elsewhere' })).rejects.toMatchObject({ code: 'not_found' })
})

test('waiting ends with 7 when it takes too long, stopping can be waited for, and lists are filtered', async () => {
  const made = await ropeway(['job', 'run', '-f', path('long/job.yml'), '-d', '-q'])
  expect(made.out).toMatch(/^job_\w+\n$/)
  expect(await ropeway(['job', 'wait', 'long', '--timeout', '50ms'])).toMatchObject({
    code: 7,
    err: expect.stringContaining('ropeway job attach'),
  })
  expect(await ropeway(['stop', 'long', '--wait'])).toMatchObject({
    code: 0,
    err: expect.stringMatching(/long is stopped/),
  })
  expect((await ropeway(['job', 'wait', 'long'])).code).toBe(1)
  expect((await ropeway(['job', 'wait', 'steps', '--json'])).json).toMatchObject([{ state: 'success' }])
  const ids = async (...flags: string[]) => (await ropeway(['ps', '-q', ...flags])).out.trim().split('\n')
  expect(await ids('--name', 'lo')).toEqual([made.out.trim()])
  expect(await ids('--state', 'success,failed', '--since', '1h')).toHaveLength(2)
  expect(await ids('--cluster', 'local', '--device', 'cpu', '--limit', '1')).toEqual([made.out.trim()])
  expect(await ids('--device', 'h100')).toEqual([''])
  expect((await ropeway(['ps', '--state', 'sleeping'])).code).toBe(2)
  expect((await ropeway(['why', 'long'])).out).toMatch(/stopped/)
})

const running = {
  ...{ state: 'running', message: 'It runs.', total_steps: 100, step_ms: 50 },
} as JobView
const points = (from: number, to: number): MetricPoint[] =>
  Array.from({ length: to - from }, (_, i) => ({ step: from + i, at: 0, value: 3 - (from + i) / 100 }))

test('the loss is drawn as a curve above the line of progress, with points from before anybody watched', () => {
  const said: string[] = []
  const drawn: { share: number; text: string; above: readonly string[] }[] = []
  const display = new JobDisplay(
    {
      note: (text) => void said.push(text),
      update: (share, text, above) => void drawn.push({ share, text, above: above!() }),
    },
    () => 40,
  )
  display.show({ ...running, steps_done: 0, metrics: {} }, [])
  display.show({ ...running, steps_done: 60, metrics: { accuracy: 0.5, loss: 2.4 } }, points(1, 60))
  display.show({ ...running, steps_done: 80, metrics: { accuracy: 0.5, loss: 2.2 } }, points(60, 81))
  expect(said).toEqual(['running: It runs.'])
  expect(drawn.map(({ share, text }) => [share, text])).toEqual([
    [0, 'step 0/100  5 s left'],
    [0.6, 'step 60/100  loss 2.400  2 s left'],
    [0.8, 'step 80/100  loss 2.200  1 s left'],
  ])
  expect(drawn.map(({ above }) => above.length)).toEqual([0, 6, 6])
  expect(drawn[2]!.above[0]).toMatch(/^2\.99 ┤/)
  expect(drawn[2]!.above[5]).toMatch(/^2\.20 ┤/)
  for (const line of drawn[2]!.above) expect(line.length).toBeLessThanOrEqual(40)
})

test.each([
  [['accuracy', 'loss', 'held_out_loss'], 'loss'],
  [['lr', 'train/loss'], 'train/loss'],
  [['glossary', 'lossless'], undefined],
])('of %j the loss is %s', (names, loss) => {
  expect(lossMetric(names)).toBe(loss)
})
