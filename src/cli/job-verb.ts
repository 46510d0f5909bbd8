/** What the verbs of jobs share: their argument, its completion, and waiting for a job to be at rest. */
import type { Command } from 'commander'
import * as api from '../api/control/job-endpoints.ts'
import type { JobView } from '../api/control/jobs.ts'
import { UserError } from '../base/errors.ts'
import { completeWith, onService, type Session } from './noun.ts'
import { duration } from './terminal.ts'

export function onJob(
  noun: Command,
  verb: string,
  description: string,
  // biome-ignore lint/suspicious/noExplicitAny: each verb has flags of its own
  action: (session: Session, flags: any, typed: string, more: any) => Promise<void>,
  options: (command: Command) => Command = (command) => command,
): void {
  const command = options(
    noun.command(verb).description(description).argument('<job>', 'name, id, or its beginning'),
  )
  onService(completeWith(command, jobNames), action)
}

export async function jobNames({ client, project }: Session): Promise<string[]> {
  const { items } = await client.call(api.listJobs, { params: { project }, query: { limit: 100 } })
  return [...new Set(items.map(({ name }) => name))]
}

export function viewOf(session: Session, job: string): Promise<JobView> {
  return session.client.call(api.viewJob, { params: { project: session.project, job } })
}

/** The job when it is at rest. Throws UserError (`timed_out`) when it is not after so long. */
export async function untilAtRest(
  session: Session,
  { id, name }: JobView,
  limitMs: number,
): Promise<JobView> {
  const params = { project: session.project, job: id }
  const signal = AbortSignal.timeout(limitMs)
  let last: JobView | undefined
  try {
    for await (const event of session.client.events(api.watchJob, { params, signal })) last = event as JobView
  } catch (error) {
    if (!signal.aborted) throw error
    throw new UserError(`${name} is ${last?.state ?? 'not at rest'} after ${duration(limitMs / 1000)}.`, {
      failure: 'timed_out',
      fix: `ropeway job attach ${id} shows its progress.`,
    })
  }
  return last ?? (await viewOf(session, id))
}
