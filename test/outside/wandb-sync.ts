/**
 * Lets W&B's own program upload a run that Ropeway watched, to a server on this machine that answers as theirs does where
 * the program asks. By hand, in an environment with `wandb` on PATH or named:
 * `npx tsx test/outside/wandb-sync.ts --programs FOLDER > test/outside/wandb-sync.txt`
 */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { assert } from '../../src/base/assert.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { JobStart } from '../../src/train/run-callbacks.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import type { StepReport } from '../../src/train/trainer.ts'
import { RunWatch } from '../../src/train/watch/run-watch.ts'
import { tinyJob } from '../train/tiny-job.ts'

const { values } = parseArgs({ options: { programs: { type: 'string', default: '' } } })
const folder = mkdtempSync(join(tmpdir(), 'ropeway-wandb-'))
const key = '0123456789'.repeat(4)
const authorization = `Basic ${Buffer.from(`api:${key}`).toString('base64')}`
const history: Record<string, number>[] = []
const said: string[] = []

interface Ask {
  query?: string
  variables?: Record<string, unknown>
  files?: Record<string, { offset: number; content: string[] }>
  complete?: boolean
  exitcode?: number
}

/** What the program wants to know before it sends anything, and what it sends. */
function answer(path: string, { query = '', variables = {}, files, complete, exitcode }: Ask): unknown {
  if (query.includes('upsertBucket')) {
    const { name, project, displayName, tags } = variables
    said.push(
      `run ${displayName} of project ${project}, tags ${tags}, config ${variables.config !== undefined}`,
    )
    const home = { id: 'P', name: project, entity: { id: 'E', name: 'me' } }
    const inserted = said.length === 1
    const bucket = { id: 'B', name, displayName, project: home, historyLineCount: history.length }
    return { data: { upsertBucket: { bucket, inserted } } }
  }
  if (query.includes('createRunFiles'))
    return { data: { createRunFiles: { runID: 'B', uploadHeaders: [], files: [] } } }
  if (query !== '') return { data: { viewer: { id: 'U', entity: 'me' }, serverInfo: { features: [] } } }
  if (!path.endsWith('/file_stream')) return {}
  const { offset = 0, content = [] } = files?.['wandb-history.jsonl'] ?? {}
  // What comes to a line that is there replaces it.
  for (const [index, line] of content.entries()) history[offset + index] = JSON.parse(line)
  if (content.length > 0) said.push(`lines ${offset} to ${offset + content.length - 1} of the history`)
  if (complete) said.push(`complete, exit code ${exitcode}`)
  return {}
}

const server = createServer(async (request, response) => {
  const parts: Buffer[] = []
  for await (const part of request) parts.push(part as Buffer)
  const bytes = Buffer.concat(parts)
  const isJson = request.headers['content-type']?.includes('json') === true
  const text = request.headers['content-encoding'] === 'gzip' ? gunzipSync(bytes) : bytes
  if (isJson) assert(request.headers.authorization === authorization, 'the program has the key')
  const told = isJson ? answer(request.url!, JSON.parse(text.toString())) : {}
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(told))
})
server.listen(0, '127.0.0.1')
await once(server, 'listening')
try {
  const watch = { wandb: { project: 'ropes', name: 'first', tags: ['a', 'b'], sync: true } }
  const job = tinyJob(join(folder, 'run'), { watch, evaluate: { every: 100 } })
  const environment = {
    PATH: `${values.programs}${delimiter}${process.env.PATH}`,
    HOME: folder,
    WANDB_API_KEY: key,
    WANDB_BASE_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
  }
  const notes: string[] = []
  const losses: number[] = []
  // Two lives: the first is stopped after five steps, and the second hands both to the program.
  for (const last of [5, job.steps]) {
    const stop = new AbortController()
    const run = new RunWatch(job, systemClock, environment, (text) => notes.push(text))
    const onStep = (report: StepReport) => {
      losses.push(report.loss)
      run.step(report)
      if (losses.length === last) stop.abort()
    }
    const onStart = (start: JobStart) => run.start(start)
    await run.end(await runTrainingJob(job, { onStart, onStep }, stop.signal))
    // Folders are named by the second.
    await delay(1100)
  }
  assert(notes.join() === 'Handing the run to wandb sync.', `the program did its work: ${notes.join(' ')}`)
  assert(
    history.map(({ _step }) => _step).join() === losses.map((_, step) => step + 1).join(),
    'each step once',
  )
  assert(
    history.every(({ loss }, step) => Math.abs(loss! - losses[step]!) < 1e-6),
    'the losses are those of the run',
  )
  console.log(said.filter((line) => !line.startsWith('run null')).join('\n'))
  console.log(`history: ${history.length} steps, keys ${Object.keys(history[0]!).sort().join(', ')}`)
} finally {
  server.close()
  rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
}
