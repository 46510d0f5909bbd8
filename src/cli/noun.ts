/** What every noun of the command line shares: its options, the service it talks to, and how names are meant. */
import type { Command } from 'commander'
import { Client } from '../api/control/client.ts'
import { UserError } from '../base/errors.ts'
import { chosenContext } from './contexts.ts'
import { Output, type OutputFlags } from './output.ts'
import { interactive } from './terminal.ts'

export interface NounFlags extends OutputFlags {
  context?: string
  project?: string
  yes?: boolean
}

/** What a verb's action gets: the service, the project that is meant, and where its answer goes. */
export interface Session {
  readonly client: Client
  /** As whom it talks: a key, or a session's token. */
  readonly token: string | undefined
  readonly out: Output
  readonly contextName: string
  /** Throws UserError when no project is chosen. */
  readonly project: string
  readonly projectOrNone: string | undefined
}

/** Names for the shell's completion of an argument, asked from the service. */
export type Completer = (session: Session) => Promise<string[]>
const completers = new WeakMap<Command, Completer>()

export function completeWith(command: Command, completer: Completer): Command {
  completers.set(command, completer)
  return command
}

export function completerOf(command: Command): Completer | undefined {
  return completers.get(command)
}

/** Adds the options that every verb has, and runs `action` with the service in hand. */
export function onService<Arguments extends unknown[], Flags extends NounFlags>(
  command: Command,
  action: (session: Session, flags: Flags, ...args: Arguments) => Promise<void>,
): Command {
  return command
    .option('--context <name>', 'the service to talk to (ropeway context)')
    .option('--project <name>', 'the project, if not that of the context')
    .option('--json', 'JSON on stdout, one object a line')
    .option('-q, --quiet', 'ids alone on stdout')
    .action(async (...given: unknown[]) => {
      // Arguments, flags, the command itself.
      const flags = given.at(-2) as Flags
      await action(sessionOf(flags), flags, ...(given.slice(0, -2) as Arguments))
    })
}

export function sessionOf(flags: NounFlags): Session {
  const context = chosenContext(flags.context)
  const projectOrNone = flags.project ?? context.project
  return {
    client: new Client(context),
    token: context.token,
    out: new Output(flags),
    contextName: context.name,
    projectOrNone,
    get project() {
      if (projectOrNone !== undefined) return projectOrNone
      throw new UserError('No project is chosen.', {
        failure: 'usage',
        fix: 'Give --project NAME, or choose one for this context: ropeway project use NAME.',
      })
    },
  }
}

/** The one item that `typed` means: a whole name or id, or the beginning of just one. */
export function meant<Item extends { id: string; name: string }>(
  items: readonly Item[],
  typed: string,
  noun: string,
): Item {
  const exact = items.filter(({ id, name }) => id === typed || name === typed)
  const found =
    exact.length > 0 ? exact : items.filter(({ id, name }) => id.startsWith(typed) || name.startsWith(typed))
  if (found.length === 1) return found[0]!
  if (found.length === 0)
    throw new UserError(`There is no ${noun} ${typed}.`, {
      failure: 'not_found',
      fix: `ropeway ${noun} lists them.`,
    })
  throw new UserError(
    `${typed} means several: ${found
      .slice(0, 5)
      .map(({ name, id }) => `${name} (${id})`)
      .join(', ')}.`,
    {
      failure: 'conflict',
      fix: 'Give more of the name, or the id.',
    },
  )
}

export async function all<Item>(items: AsyncIterable<Item>, max = 10_000): Promise<Item[]> {
  const list: Item[] = []
  for await (const item of items) {
    list.push(item)
    if (list.length >= max) break
  }
  return list
}

/** Asks on a terminal; elsewhere -y must have been given. */
export async function confirm(question: string, flags: { yes?: boolean }): Promise<void> {
  if (flags.yes === true) return
  if (!interactive || process.stdin.isTTY !== true)
    throw new UserError(`${question} Nobody is there to say yes.`, {
      failure: 'usage',
      fix: 'Say so with -y.',
    })
  const { createInterface } = await import('node:readline/promises')
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  const answer = await lines.question(`${question} [y/N] `)
  lines.close()
  if (!/^y(es)?$/i.test(answer.trim())) throw new UserError('Nothing was done.', { failure: 'interrupted' })
}
