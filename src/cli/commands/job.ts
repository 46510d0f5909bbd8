import { dirname, resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import * as api from '../../api/control/job-endpoints.ts'
import { viewTemplate } from '../../api/control/job-templates.ts'
import { type JobView, jobStateNames, type LogLineView, type MetricPoint } from '../../api/control/jobs.ts'
import { UserError } from '../../base/errors.ts'
import { readJobFile } from '../job-file.ts'
import { attach } from '../job-progress.ts'
import { all, completeWith, confirm, type NounFlags, onService, type Session } from '../noun.ts'
import { milliseconds, wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { compact, dim, note } from '../terminal.ts'
import { uploadWorkspace } from '../workspace-upload.ts'

interface RunFlags extends NounFlags {
  file?: string
  template?: string
  name?: string
  priority?: number
  cluster?: string
  detach?: boolean
}

interface LogFlags extends NounFlags {
  follow?: boolean
  rank?: number
  attempt?: number
  head?: number
  since?: number
  contains?: string
  stream?: 'out' | 'err'
  times?: boolean
}

export function jobCommand(program: Command): void {
  const noun = program.command('job').description('training jobs: our trainer, or any command')
  onService(
    noun
      .command('list', { isDefault: true })
      .description('list them, the newest first')
      .option('--state <states>', `only these, separated by commas: ${jobStateNames.join(', ')}`),
    runList,
  )
  runVerb(noun)
  onJob(noun, 'view', 'show one', runView)
  onJob(noun, 'why', 'what happened to it, and why it is where it is', runWhy)
  onJob(noun, 'attach', 'show its progress until it is at rest', async (session, flags, typed) =>
    attach(session, await view(session, typed), flags.json === true),
  )
  onJob(noun, 'stop', 'let it save and end', (session, _, typed) =>
    ask(session, api.stopJob, typed, 'is asked to stop'),
  )
  onJob(noun, 'save', 'have a running one write a checkpoint now, and go on', runSave, (command) =>
    command.option('-d, --detach', 'do not wait until it is written'),
  )
  onJob(noun, 'resume', 'let a stopped one go on from its checkpoint', (session, _, typed) =>
    ask(session, api.resumeJob, typed, 'waits for its turn'),
  )
  onJob(noun, 'retry', 'give a failed one its retries anew', (session, _, typed) =>
    ask(session, api.retryJob, typed, 'waits for its turn'),
  )
  onJob(noun, 'delete', 'delete one that is at rest', runDelete, (command) =>
    command.option('-y, --yes', 'do not ask'),
  )
  onJob(noun, 'logs', 'what its ranks printed', runLogs, (command) =>
    command
      .option('-f, --follow', 'also what is still to come')
      .option('--rank <n>', 'of this rank alone', wholeNumber(0))
      .option('--attempt <n>', 'of this attempt instead of the newest', wholeNumber(1))
      .option('--head <n>', 'the first lines alone', wholeNumber(1))
      .option('--since <time>', 'of the last 30s, 10m ...', milliseconds)
      .option('--contains <text>', 'only lines with this text')
      .option('--stream <name>', 'out or err', outOrErr)
      .option('--times', 'with the time and rank of each line'),
  )
  metricsVerb(noun)
  onJob(noun, 'artifacts', 'files in its output folder', runArtifacts)
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
    runRun,
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

function onJob(
  noun: Command,
  verb: string,
  description: string,
  // biome-ignore lint/suspicious/noExplicitAny: each verb has flags of its own
  action: (session: Session, flags: any, typed: string) => Promise<void>,
  options: (command: Command) => Command = (command) => command,
): void {
  const command = options(
    noun.command(verb).description(description).argument('<job>', 'name, id, or its beginning'),
  )
  onService(completeWith(command, jobNames), action)
}

function outOrErr(text: string): 'out' | 'err' {
  if (text === 'out' || text === 'err') return text
  throw new InvalidArgumentError('It takes out or err.')
}

async function jobNames({ client, project }: Session): Promise<string[]> {
  const { items } = await client.call(api.listJobs, { params: { project }, query: { limit: 100 } })
  return [...new Set(items.map(({ name }) => name))]
}

function view(session: Session, job: string): Promise<JobView> {
  return session.client.call(api.viewJob, { params: { project: session.project, job } })
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

const listedMax = 1_000

async function runList(session: Session, flags: NounFlags & { state?: string }): Promise<void> {
  const query = { limit: 200, ...(flags.state !== undefined && { state: flags.state }) }
  const found = await all(
    session.client.items(api.listJobs, { params: { project: session.project }, query }),
    listedMax,
  )
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
  session.out.one(await view(session, typed), {
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
  const job = await view(session, typed)
  const params = { project: session.project, job: job.id }
  const events = await all(session.client.items(api.listJobEvents, { params, query: { limit: 500 } }))
  if (session.out.isJson) for (const event of events) line(JSON.stringify(event))
  else {
    for (const { at, kind, message } of events)
      line(`${timeText(at)}  ${kind.slice('job.'.length).padEnd(14)}  ${message}`)
    note(`\n${job.name} is ${job.state}: ${job.message}`)
  }
}

async function runRun(session: Session, flags: RunFlags): Promise<void> {
  const { file: given, workspace } = await fileAsked(session, flags)
  const { job: placement, ...file } = given
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
  const file = readJobFile(path)
  const out = typeof file.out === 'string' ? file.out : 'out'
  return { file, workspace: await uploadWorkspace(session, dirname(resolve(path)), out) }
}

async function runDelete(session: Session, flags: NounFlags, typed: string): Promise<void> {
  const { id, name } = await view(session, typed)
  await confirm(`Delete the job ${name} (${id}) with its checkpoints?`, flags)
  await session.client.call(api.deleteJob, { params: { project: session.project, job: id } })
  note(`${name} is deleted; its files go in a day.`)
}

async function runLogs(session: Session, flags: LogFlags, typed: string): Promise<void> {
  const { rank, attempt, head, contains, stream, since, follow } = flags
  const query = {
    ...(rank !== undefined && { rank }),
    ...(attempt !== undefined && { attempt }),
    ...(head !== undefined && { head }),
    ...(contains !== undefined && { contains }),
    ...(stream !== undefined && { stream }),
    ...(since !== undefined && { since: Math.floor(performance.timeOrigin + performance.now() - since) }),
    ...(follow === true && { follow: 'true' as const }),
  }
  const params = { project: session.project, job: typed }
  for await (const event of session.client.events(api.readJobLog, { params, query })) {
    const { at, rank: from, text, stream: source } = event as LogLineView
    if (session.out.isJson) line(JSON.stringify(event))
    else
      line(flags.times === true ? `${timeText(at)} [${from}] ${source} ${printable(text)}` : printable(text))
  }
}

/** Colours of programs may pass; what moves the cursor or rings may not. */
function printable(text: string): string {
  const colours = String.raw`\u001b\[[\d;]*m`
  return text.replace(
    new RegExp(`(${colours})|[\\p{Cc}&&[^\\t]]`, 'gv'),
    (_, colour?: string) => colour ?? '',
  )
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

async function runArtifacts(session: Session, _: NounFlags, typed: string): Promise<void> {
  const params = { project: session.project, job: typed }
  const { items } = await session.client.call(api.listJobArtifacts, { params })
  session.out.list(
    items.map((item) => ({ ...item, id: item.path })),
    {
      PATH: ({ path }) => path,
      BYTES: ({ bytes }) => compact(bytes),
      CHANGED: (item) => timeText(item.modified_at),
    },
  )
}
