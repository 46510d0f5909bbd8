import { resolve } from 'node:path'
import type { Command } from 'commander'
import { type Manifest, manifestKinds } from '../../api/control/manifest.ts'
import { problemCodes, Refused } from '../../api/control/problem.ts'
import { viewProject } from '../../api/control/projects.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { planCheckpoint, planDataset, planModel, planRetention } from '../apply/data-steps.ts'
import { readManifests } from '../apply/manifests.ts'
import { planCluster, planKey, planProject, planQuota } from '../apply/place-steps.ts'
import { changeText, type Planner, type Step } from '../apply/plan.ts'
import { planDeployment, planJob, planTemplate } from '../apply/work-steps.ts'
import { confirm, type NounFlags, onService, type Session } from '../noun.ts'
import { line } from '../output.ts'
import { dim, green, note, yellow } from '../terminal.ts'

interface ApplyFlags extends NounFlags {
  file: string
  dryRun?: boolean
}

/** A document, what is to be done about it, and what became of that. */
interface Item {
  readonly wanted: Manifest
  readonly project: string | null
  readonly step: Step
  outcome: 'planned' | 'unchanged' | 'done' | 'failed' | 'not_done'
  result?: unknown
  error?: string
}

export function applyCommand(program: Command): void {
  onService(
    program
      .command('apply')
      .description('make things as a YAML file says: shows the plan, asks, acts')
      .requiredOption('-f, --file <path>', 'the file; it may hold several documents')
      .option('--dry-run', 'show the plan and do nothing')
      .option('-y, --yes', 'do not ask'),
    runApply,
  )
}

/** Leaving a kind out does not compile. */
const planners: { readonly [Kind in Manifest['kind']]: Planner<Kind> } = {
  cluster: planCluster,
  project: planProject,
  quota: planQuota,
  retention: planRetention,
  dataset: planDataset,
  checkpoint: planCheckpoint,
  model: planModel,
  template: planTemplate,
  job: planJob,
  deployment: planDeployment,
  key: planKey,
}

async function runApply(session: Session, flags: ApplyFlags): Promise<void> {
  const documents = readManifests(flags.file).toSorted(
    (a, b) => manifestKinds.indexOf(a.kind) - manifestKinds.indexOf(b.kind),
  )
  await refuseUnknownProjects(session, documents)
  const items: Item[] = []
  for (const wanted of documents) items.push(await itemOf(session, wanted, resolve(flags.file)))
  if (!session.out.isJson) for (const item of items) showPlan(item)
  const todo = items.filter(({ outcome }) => outcome === 'planned')
  if (flags.dryRun !== true && todo.length > 0) {
    await confirm(`Do this (${todo.length} of ${items.length})?`, flags)
    await act(session, items, flags)
    return
  }
  if (session.out.isJson) for (const item of items) line(JSON.stringify(shown(item)))
  else if (todo.length === 0) note('Everything is so already.')
}

async function itemOf(session: Session, wanted: Manifest, manifest: string): Promise<Item> {
  const project = projectOf(session, wanted)
  const target = { client: session.client, project: project ?? '', manifest }
  const step = await (planners[wanted.kind] as Planner<typeof wanted.kind>)(target, wanted as never)
  return { wanted, project, step, outcome: step.does === 'nothing' ? 'unchanged' : 'planned' }
}

/** Null of what is in no project. */
function projectOf(session: Session, wanted: Manifest): string | null {
  if (wanted.kind === 'cluster' || wanted.kind === 'project') return null
  return wanted.project ?? session.project
}

/** A project that the file does not make must be there: a name that was typed wrong should not plan anything. */
async function refuseUnknownProjects(session: Session, documents: readonly Manifest[]): Promise<void> {
  const made = documents.filter(({ kind }) => kind === 'project').map(({ name }) => name)
  const named = new Set(documents.map((wanted) => projectOf(session, wanted)))
  for (const project of named)
    if (project !== null && !made.includes(project))
      await session.client.call(viewProject, { params: { project } })
}

const signs = { create: green('+'), change: yellow('~'), nothing: dim('=') } as const

function showPlan({ wanted, step }: Item): void {
  note(`${signs[step.does]} ${wanted.kind} ${wanted.name}${step.says === '' ? '' : `: ${step.says}`}`)
  for (const change of step.changes) note(dim(`    ${changeText(change)}`))
}

async function act(session: Session, items: Item[], flags: ApplyFlags): Promise<void> {
  let failure: unknown
  for (const item of items) {
    if (item.outcome === 'planned')
      if (failure !== undefined) item.outcome = 'not_done'
      else failure = await actOn(item)
    tell(session, item, flags)
  }
  if (failure !== undefined) throw explained(items, failure)
}

/** Returns what was thrown. */
async function actOn(item: Item): Promise<unknown> {
  try {
    item.result = await item.step.act()
    item.outcome = 'done'
    return undefined
  } catch (error) {
    item.outcome = 'failed'
    item.error = messageOf(error)
    return error
  }
}

const saying = { create: 'created', change: 'changed', nothing: 'unchanged' } as const

function tell({ out }: Session, item: Item, flags: ApplyFlags): void {
  const { wanted, step, outcome, result } = item
  if (out.isJson) line(JSON.stringify(shown(item)))
  if (out.isJson || outcome !== 'done') return
  const made = result as { id?: string; key?: string } | undefined
  if (flags.quiet === true) line(made?.id ?? wanted.name)
  else line(`${wanted.kind} ${wanted.name}: ${saying[step.does]}`)
  if (made?.key === undefined || wanted.kind !== 'key') return
  line(made.key)
  note('This is the only time that the key is shown.')
}

function shown({ wanted, project, step, outcome, result, error }: Item): object {
  const { does, says, changes } = step
  return {
    ...{ kind: wanted.kind, name: wanted.name, project, does, says, changes, outcome },
    ...(result !== undefined && { result }),
    ...(error !== undefined && { error }),
  }
}

/** The failure, with what was done before it and what was not done after it. */
function explained(items: readonly Item[], error: unknown): unknown {
  const named = (outcome: Item['outcome']) =>
    items
      .filter((item) => item.outcome === outcome)
      .map(({ wanted }) => `${wanted.kind} ${wanted.name}`)
      .join(', ') || 'nothing'
  const known = error instanceof UserError || error instanceof Refused
  // A bug is shown as one.
  if (!known) return error
  const failure = error instanceof Refused ? problemCodes[error.code].failure : error.failure
  return new UserError(`${named('failed')}: ${error.message}`, {
    failure,
    fix: [
      `Done: ${named('done')}. Not done: ${named('not_done')}. Apply the file again to go on.`,
      ...(error.fix === undefined ? [] : [error.fix]),
    ].join('\n'),
    cause: error,
  })
}
