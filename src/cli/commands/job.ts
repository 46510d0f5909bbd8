import { dirname, resolve } from 'node:path'
import type { Command } from 'commander'
import * as api from '../../api/control/job-endpoints.ts'
import { viewTemplate } from '../../api/control/job-templates.ts'
import { type JobView, jobStateNames, type MetricPoint } from '../../api/control/jobs.ts'
import { exitCodes, UserError } from '../../base/errors.ts'
import { readJobFile } from '../job-file.ts'
import { sendInputs } from '../job-inputs.ts'
import { attach } from '../job-progress.ts'
import { jobNames, onJob, untilAtRest, viewOf } from '../job-verb.ts'
import { all, completeWith, confirm, type NounFlags, onService, type Session } from '../noun.ts'
import { agoMs, milliseconds, wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { dim, note } from '../terminal.ts'
import { uploadWorkspace } from '../workspace-upload.ts'
import { fileVerbs, logsVerb } from './job-output.ts'

interface RunFlags extends NounFlags {
  file?: string
  template?: string
  name?: string
  priority?: number
  cluster?: string
  detach?: boolean
}

export function jobCommand(program: Command): void {
  const noun = program.command('job').description('training jobs: our trainer, or any command')
  listVerb(noun.command('list', { isDefault: true }))
  runVerb(noun)
  onJob(noun, 'view', 'show one', runView)
  whyVerb(noun)
  onJob(noun, 'attach', 'show its progress until it is at rest', async (session, flags, typed) =>
    attach(session, await viewOf(session, typed), flags.json === true),
  )
  onJob(noun, 'save', 'have a running one write a checkpoint now, and go on', runSave, (command) =>
    command.option('-d, --detach', 'do not wait until it is written'),
  )
  onJob(noun, 'wait', 'wait until it is at rest', runWait, (command) =>
    command.option('--timeout <time>', 'so long at most; then exit with 7', milliseconds, waitMs),
  )
  stopVerb(noun)
  resumeVerb(noun)
  onJob(noun, 'retry', 'give a failed one its retries anew', (session, _, typed) =>
    ask(session, api.retryJob, typed, 'waits for its turn'),
  )
  onJob(noun, 'delete', 'delete one that is at rest', runDelete, (command) =>
    command.option('-y, --yes', 'do not ask'),
  )
  logsVerb(noun)
  metricsVerb(noun)
  fileVerbs(noun)
  // What is typed most often goes without its noun.
  listVerb(program.command('ps'))
  whyVerb(program)
  logsVerb(program)
  stopVerb(program)
  resumeVerb(program)
}

function listVerb(command: Command): void {
  onService(
    command
      .description('list jobs, the newest first')
      .option('--state <states>', `only these, separated by commas: ${jobStateNames.join(', ')}`)
      .option('--name <beginning>', 'only those whose name begins so')
      .option('--device <type>', 'only those on devices of this type')
      .option('--cluster <name>', 'only those that run on this cluster, or may run on no other')
      .option('--since <time>', 'only those created in the last 2h, 7d ...', milliseconds)
      .option('--limit <n>', 'how many', wholeNumber(1, 100_000), 1_000),
    runList,
  )
}

function whyVerb(noun: Command): void {
  onJob(noun, 'why', 'what happened to a job, and why it is where it is', runWhy)
}

/** How long is waited where nothing else is said. */
const waitMs = 3_600_000

function stopVerb(noun: Command): void {
  onJob(noun, 'stop', 'let a job save and end', runStop, (command) =>
    command.option(
      '--wait [time]',
      'until it is at rest, so long at most (1h); then exit with 7',
      milliseconds,
    ),
  )
}

function resumeVerb(noun: Command): void {
  onJob(noun, 'resume', 'let a stopped job go on from its checkpoint', (session, _, typed) =>
    ask(session, api.resumeJob, typed, 'waits for its turn'),
  )
}

function runVerb(noun: Command): void {
  onService(
    noun
      .command('run')
      .description('run a job file; its progress is shown until it ends')
      .option('-f, --file <file>', 'job file (YAML); see examples/ and docs/any-training-code.md')
      .option('-t, --template <name>', 'a job file that the project keeps')
      .option('--name <name>', 'its name, instead of the file’s')
      .option('--priority <n>', '0 to 100, higher goes first', wholeNumber(0, 100))
      .option('--cluster <name>', 'where, instead of anywhere')
      .option('-d, --detach', 'do not wait for it'),
    (session: Session, flags: RunFlags) => runJobFile(session, flags),
  )
}

function metricsVerb(noun: Command): void {
  const command = noun
    .command('metrics')
    .description('which metrics it reported, or the points of one')
    .argument('<job>')
    .argument('[metric]')
  onService(completeWith(command, jobNames), runMetrics)
}

async function ask(
  session: Session,
  endpoint: typeof api.stopJob | typeof api.resumeJob | typeof api.retryJob,
  typed: string,
  what: string,
): Promise<void> {
  const job = await session.client.call(endpoint, { params: { project: session.project, job: typed } })
  if (session.out.isJson) return line(JSON.stringify(job))
  note(job.state === 'stopped' ? `${job.name} is stopped.` : `${job.name} ${what}.`)
}

async function runSave(session: Session, flags: NounFlags & { detach?: boolean }, typed: string) {
  const params = { project: session.project, job: typed }
  let job = await session.client.call(api.saveJob, { params })
  if (flags.detach !== true) {
    for await (const event of session.client.events(api.watchJob, { params })) {
      job = event as JobView
      if (!job.saving) break
    }
  }
  if (session.out.isJson) return line(JSON.stringify(job))
  note(
    job.saving
      ? `${job.name} is asked to save.`
      : `${job.name} has a checkpoint of step ${job.checkpoint_step}.`,
  )
}

async function runStop(
  session: Session,
  flags: NounFlags & { wait?: number | true },
  typed: string,
): Promise<void> {
  if (flags.wait === undefined) return await ask(session, api.stopJob, typed, 'is asked to stop')
  const params = { project: session.project, job: typed }
  const asked = await session.client.call(api.stopJob, { params })
  tellEnd(session, await untilAtRest(session, asked, flags.wait === true ? waitMs : flags.wait))
}

async function runWait(
  session: Session,
  flags: NounFlags & { timeout: number },
  typed: string,
): Promise<void> {
  const job = await untilAtRest(session, await viewOf(session, typed), flags.timeout)
  tellEnd(session, job)
  if (job.state !== 'success') process.exitCode = exitCodes.failed
}

function tellEnd({ out }: Session, job: JobView): void {
  if (out.isJson) line(JSON.stringify(job))
  else note(`${job.name} is ${job.state}: ${job.message}`)
}

interface ListFlags extends NounFlags {
  state?: string
  name?: string
  device?: string
  cluster?: string
  since?: number
  limit: number
}

async function runList(session: Session, flags: ListFlags): Promise<void> {
  const { state, name, device, cluster, since } = flags
  const query = {
    limit: Math.min(200, flags.limit),
    ...(state !== undefined && { state }),
    ...(name !== undefined && { name }),
    ...(device !== undefined && { device }),
    ...(cluster !== undefined && { cluster }),
    ...(since !== undefined && { since: agoMs(since) }),
  }
  const params = { project: session.project }
  const found = await all(session.client.items(api.listJobs, { params, query }), flags.limit)
  session.out.list(found, {
    NAME: ({ name }) => name,
    STATE: ({ state }) => state,
    STEP: ({ steps_done, total_steps }) => (total_steps === null ? null : `${steps_done}/${total_steps}`),
    DEVICES: ({ devices, device }) => `${devices} ${device}`,
    CREATED: ({ created_at }) => timeText(created_at),
    ID: ({ id }) => id,
    MESSAGE: ({ message }) => message,
  })
}

async function runView(session: Session, _: NounFlags, typed: string): Promise<void> {
  session.out.one(await viewOf(session, typed), {
    NAME: ({ name }) => name,
    ID: ({ id }) => id,
    KIND: ({ kind }) => kind,
    STATE: ({ state }) => state,
    WHY: ({ message }) => message,
    STEP: ({ steps_done, total_steps }) => (total_steps === null ? null : `${steps_done} of ${total_steps}`),
    CHECKPOINT: ({ checkpoint_step }) => (checkpoint_step === 0 ? null : `step ${checkpoint_step}`),
    METRICS: ({ metrics }) =>
      Object.entries(metrics)
        .map(([name, value]) => `${name} ${value}`)
        .join(', ') || null,
    DEVICES: ({ devices, device, processes }) => `${devices} ${device}, ${processes} processes`,
    CLUSTER: ({ cluster }) => cluster,
    PRIORITY: ({ priority }) => priority,
    ATTEMPT: ({ attempt, retries_used }) => `${attempt} (${retries_used} retries since the last progress)`,
    CREATED: ({ created_at }) => timeText(created_at),
    STARTED: ({ started_at }) => timeText(started_at),
    ENDED: ({ ended_at }) => timeText(ended_at),
  })
}

async function runWhy(session: Session, _: NounFlags, typed: string): Promise<void> {
  const job = await viewOf(session, typed)
  const params = { project: session.project, job: job.id }
  const events = await all(session.client.items(api.listJobEvents, { params, query: { limit: 500 } }))
  if (session.out.isJson) for (const event of events) line(JSON.stringify(event))
  else {
    for (const { at, kind, message } of events)
      line(`${timeText(at)}  ${kind.slice('job.'.length).padEnd(14)}  ${message}`)
    note(`\n${job.name} is ${job.state}: ${job.message}`)
  }
}

/** Runs a file as a job, with some of its fields changed; shows it until it ends, unless detached. */
export async function runJobFile(
  session: Session,
  flags: RunFlags,
  changes: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const { file: given, workspace } = await fileAsked(session, flags)
  const { job: placement, ...said } = given
  const file = { ...said, ...changes }
  const job = {
    ...(typeof placement === 'object' && placement !== null ? placement : {}),
    ...(flags.priority !== undefined && { priority: flags.priority }),
    ...(flags.cluster !== undefined && { cluster: flags.cluster }),
  }
  const created = await session.client.call(api.createJobEndpoint, {
    params: { project: session.project },
    body: {
      file: { ...file, job },
      ...(workspace !== null && { workspace }),
      ...(flags.name !== undefined && { name: flags.name }),
    },
  })
  if (flags.detach !== true) return await attach(session, created, flags.json === true)
  if (session.out.isJson) return line(JSON.stringify(created))
  line(flags.quiet === true ? created.id : created.name)
  note(dim(`ropeway job attach ${created.id} shows its progress.`))
}

async function fileAsked(
  session: Session,
  { file: path, template }: RunFlags,
): Promise<{ file: Record<string, unknown>; workspace: string | null }> {
  if (template !== undefined && path === undefined)
    return await session.client.call(viewTemplate, { params: { project: session.project, template } })
  if (path === undefined || template !== undefined)
    throw new UserError('A job is run from a file or from a template: give -f FILE or -t NAME.', {
      failure: 'usage',
    })
  const given = readJobFile(path)
  const folder = dirname(resolve(path))
  const file = await sendInputs(session, given, folder)
  const out = typeof given.out === 'string' ? given.out : 'out'
  return { file, workspace: await uploadWorkspace(session, folder, out) }
}

async function runDelete(session: Session, flags: NounFlags, typed: string): Promise<void> {
  const { id, name } = await viewOf(session, typed)
  await confirm(`Delete the job ${name} (${id}) with its checkpoints?`, flags)
  await session.client.call(api.deleteJob, { params: { project: session.project, job: id } })
  note(`${name} is deleted; its files go in a day.`)
}

async function runMetrics(
  session: Session,
  _: NounFlags,
  typed: string,
  name: string | undefined,
): Promise<void> {
  const params = { project: session.project, job: typed }
  if (name === undefined) {
    const { items } = await session.client.call(api.listJobMetrics, { params })
    session.out.list(
      items.map((item) => ({ ...item, id: item.name })),
      {
        NAME: (item) => item.name,
        POINTS: ({ points }) => points,
        STEPS: (item) => `${item.first_step}-${item.last_step}`,
      },
    )
    return
  }
  for (let after = -1; ; ) {
    const { items } = await session.client.call(api.readJobMetric, {
      params,
      query: { name, after, limit: 5000 },
    })
    for (const point of items as MetricPoint[])
      line(session.out.isJson ? JSON.stringify(point) : `${point.step}\t${point.value}`)
    const last = items.at(-1)
    if (last === undefined) return
    after = last.step
  }
}
